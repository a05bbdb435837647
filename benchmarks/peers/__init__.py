"""What Tocsin is compared with."""
