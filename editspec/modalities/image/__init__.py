"""Pictures, and what is measured in them."""
