"""What all routes share: authentication, rate limits, request bodies, problem documents, paging, health and metrics."""
