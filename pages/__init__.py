# SPDX-License-Identifier: Apache-2.0
"""Draw the pages that the networks learn from: puzzles, fonts, the chapter's page, the newspaper page, the camera."""

EFFECTS = {  # how often a photo has each (effects.py, camera.py)
    "ghosts": 0.3,
    "marks": 0.3,
    "tints": 0.15,
    "small": 0.12,
    "hand": 0.15,
    "dark": 0.1,
    "bends": 0.25,
    "corners": 0.22,
}
