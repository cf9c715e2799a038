"""Services: from watched objects to chains that balance in the kernel."""
