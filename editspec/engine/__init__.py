"""A build session: lock, plan, folder, provenance."""
