"""The audit: what the ledger holds, read (views, REST and commands), proved, and in the end let go."""
