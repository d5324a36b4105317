"""One training loop for every stage; it knows no stage."""

from minivim.training.checkpoint import Workdir, read_metrics, train_seconds
from minivim.training.hooks import tensorboard
from minivim.training.loop import fit
from minivim.training.optim import learning_rate, optimizer
from minivim.training.step import TrainState, make_step, new_state
