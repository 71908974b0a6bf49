"""Others that do the same, each as its documentation says; what they promise stands in docs/performance.md.

They are imported where they are used: one that is not installed leaves its row empty.
"""
