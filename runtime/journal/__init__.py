"""Journals: where events and the outcomes of their steps are recorded."""
