"""What produces losses: supervised tasks, coordinate denoising, masked-atom prediction."""

from foundation.training.objectives.base import CLEAN_VIEW as CLEAN_VIEW
from foundation.training.objectives.base import Objective as Objective
from foundation.training.objectives.build import ObjectiveConfig as ObjectiveConfig
from foundation.training.objectives.build import build_objectives as build_objectives
from foundation.training.objectives.denoising import DenoisingConfig as DenoisingConfig
from foundation.training.objectives.denoising import DenoisingObjective as DenoisingObjective
from foundation.training.objectives.local_charges import LocalChargesConfig as LocalChargesConfig
from foundation.training.objectives.local_charges import LocalChargesObjective as LocalChargesObjective
from foundation.training.objectives.masked_atoms import MaskedAtomsConfig as MaskedAtomsConfig
from foundation.training.objectives.masked_atoms import MaskedAtomsObjective as MaskedAtomsObjective
from foundation.training.objectives.supervised import SupervisedConfig as SupervisedConfig
from foundation.training.objectives.supervised import SupervisedObjective as SupervisedObjective
