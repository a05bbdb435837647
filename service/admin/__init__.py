"""Administration over REST: revocations, and connections that an administrator closes."""
