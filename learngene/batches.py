"""The order of training images: a fresh permutation each epoch, the same on any number of processes."""
import torch
from torch.utils.data import Dataset

from .rng import seed_image


class EpochBatches:
    "Batch sampler: this process's share of every batch; seed and epoch alone set the order."

    def __init__(
        self,
        n: int,  # training images
        batch_size: int,  # images a step, over all processes; fewer where there are not so many
        seed: int,  # of the run
        rank=0,  # of this process
        world=1,  # processes
        pairs=False,  # every process's share must be even, as Mixup needs it
    ):
        unit = 2 * world if pairs else world
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.batch_size = min(batch_size, n // unit * unit)
        self.epoch = 0  # which sets the order
        self.first = 0  # batch to begin with; more than 0 when an interrupted epoch resumes
        if self.batch_size % world:
            raise ValueError(f"a batch of {self.batch_size} images cannot be split evenly among {world} processes; "
                             f"choose a multiple of {world}.")
        if pairs and self.batch_size // world % 2:
            raise ValueError(f"Mixup needs an even number of images a process, here it is "
                             f"{self.batch_size // world}; change train.batch_size.")
        if self.batch_size == 0:
            raise ValueError(f"{n} training images make no batch, which takes at least {unit}; use more images.")

    def __len__(self):
        return self.n // self.batch_size

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.n, generator=generator).tolist()
        share = self.batch_size // self.world
        for i in range(self.first, len(self)):
            start = i * self.batch_size + self.rank * share
            yield order[start:start + share]


class SeededImages(Dataset):
    "A dataset whose augmentation depends on seed, epoch and image alone."

    def __init__(
        self,
        images,  # a Dataset
        batches: EpochBatches,  # which know seed and epoch
    ):
        self.images, self.batches = images, batches

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        seed_image(self.batches.seed, self.batches.epoch, i)
        return self.images[i]
