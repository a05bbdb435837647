"""What every route shares: problem documents, the bearer, rate limits, bounds on a request, health and metrics."""
