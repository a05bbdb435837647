"""The dashboard: statistics of the service, sampled only while somebody looks."""
