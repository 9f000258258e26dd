"""The API of the studio, a router for each resource, and the page.

Every change names the revision that it was made on. What the endpoints share is in `shared`.
"""
