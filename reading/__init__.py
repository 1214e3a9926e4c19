"""Find a board in a photo and judge what is read: proposals, the look of a grid, ink, cells, the rules of Sudoku."""
