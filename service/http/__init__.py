"""What all routes share: authentication, limits, request bodies, problems, paging, health."""
