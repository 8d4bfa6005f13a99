"""What a restored face is measured by while it is learned: pixels, edges, identity."""
