"""Curves of runs from before this platform, read from what they left: console logs and TensorBoard folders."""
