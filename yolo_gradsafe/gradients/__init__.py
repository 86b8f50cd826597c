"""Pure measures: norms, layer groups, update ratios, the accumulation window, robust statistics."""
