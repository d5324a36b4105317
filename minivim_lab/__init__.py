"""What makes the book and the studies: explorers, the TPU plan, the paper's grid.

`minivim` never needs it for its own work; the commands `demo`, `plan`, `reproduce` and
`convert` import it when they are called.
"""
