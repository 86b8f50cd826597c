"""Where the plugin meets Ultralytics."""
