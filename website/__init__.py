"""The documentation as a site, and the pictures in it; no part of the package."""
