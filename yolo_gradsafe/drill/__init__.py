"""Faults on purpose: injected below the plugin, to show on a machine that the protection works there."""
