"""Draw the pages that the networks learn from: puzzles, fonts, the tutorial's page, the newspaper page, the camera."""
