"""The paper's tables on Skyline, where the perfect edit is known for every image: ``editspec bench
paper``.
"""
