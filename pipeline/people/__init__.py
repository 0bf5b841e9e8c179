"""People of films: scans that make galleries, and runs that use them."""
