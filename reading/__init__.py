# SPDX-License-Identifier: Apache-2.0
"""Find a board in a photo and judge its reading, by proposals, likeness to a grid, ink, cells and the rules."""
