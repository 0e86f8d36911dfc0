"""Runs side by side: each a process of its own, queued by Ray, known again when a sweep goes on. Free of torch."""
