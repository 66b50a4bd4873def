"""Runs from before this platform, read from what they left: console logs, TensorBoard folders, trackers' stores."""
