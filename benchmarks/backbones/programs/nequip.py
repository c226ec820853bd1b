"""nequip: its own `nequip-train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.backbones.clock import ClockSettings
from benchmarks.backbones.data import Split
from benchmarks.backbones.lightning_clock import register
from benchmarks.backbones.programs.base import Command, Program, pairs, rival_python, worker
from benchmarks.backbones.rows import CurveRow, NequipModelRow
from foundation.config import dump_yaml

MONITORED = "val0_epoch/weighted_sum"
SYMBOLS = ["H", "C", "O"]
RESUME = "resume.ckpt"


class Nequip(Program):
    """nequip in its own environment."""

    def __init__(self, model: NequipModelRow) -> None:
        self.model = model

    def training(self, row: CurveRow, *, split: Split, folder: Path, clock: ClockSettings) -> Command:
        register(folder / "entry_point")
        (folder / "config.yaml").write_text(dump_yaml(self._config(row, split, folder)), encoding="utf-8")
        program = rival_python("nequip").with_name("nequip-train")
        arguments = [program, "-cp", folder, "-cn", "config", f"hydra.run.dir={folder / 'hydra'}"]
        if (folder / RESUME).is_file():
            arguments.append(f"++ckpt_path={folder / RESUME}")
        return Command(arguments, environment=clock.to_environment(), import_paths=[folder / "entry_point"])

    def _config(self, row: CurveRow, split: Split, folder: Path) -> dict[str, Any]:
        return {
            "run": ["train"],
            "data": self._data(row, split),
            "trainer": {
                "_target_": "lightning.Trainer",
                "accelerator": "cpu",
                "devices": 1,
                "max_epochs": -1,
                "check_val_every_n_epoch": 1,
                "log_every_n_steps": 20,
                "num_sanity_val_steps": 0,
                "enable_progress_bar": False,
                "logger": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(folder / "log")},
                "callbacks": [
                    {
                        "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                        "dirpath": str(folder),
                        "filename": Path(RESUME).stem,
                        "every_n_epochs": 1,
                        "enable_version_counter": False,
                    }
                ],
            },
            "training_module": self._training_module(row),
            "global_options": {"allow_tf32": False},
        }

    def _data(self, row: CurveRow, split: Split) -> dict[str, Any]:
        loader = {"_target_": "torch.utils.data.DataLoader", "num_workers": 0}
        return {
            "_target_": "nequip.data.datamodule.ASEDataModule",
            "seed": row.seed,
            "train_file_path": str(split.train_repeated),
            "val_file_path": str(split.val),
            "transforms": [
                {
                    "_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper",
                    "model_type_names": SYMBOLS,
                },
                {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": self.model.model["r_max"]},
            ],
            "train_dataloader": {**loader, "batch_size": row.batch_size, "shuffle": True},
            "val_dataloader": {**loader, "batch_size": 10},
            "stats_manager": {
                "_target_": "nequip.data.CommonDataStatisticsManager",
                "dataloader_kwargs": {"batch_size": 10},
                "type_names": SYMBOLS,
            },
        }

    def _training_module(self, row: CurveRow) -> dict[str, Any]:
        weights = {"total_energy_mae": 1.0, "forces_mae": 1.0}
        return {
            "_target_": "nequip.train.EMALightningModule",
            "ema_decay": self.model.ema_decay,
            "loss": {
                "_target_": "nequip.train.EnergyForceLoss",
                "per_atom_energy": True,
                "coeffs": {"total_energy": 1.0, "forces": 1.0},
            },
            "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics", "coeffs": weights},
            "train_metrics": {"_target_": "nequip.train.EnergyForceMetrics", "coeffs": weights},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": self.model.learning_rate},
            "lr_scheduler": {
                "scheduler": {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", **self.model.plateau},
                "monitor": MONITORED,
                "interval": "epoch",
                "frequency": 1,
            },
            "model": {
                **self.model.model,
                "compile_mode": row.mode,
                "seed": row.seed,
                "model_dtype": "float32",
                "type_names": SYMBOLS,
                "avg_num_neighbors": "${training_data_stats:num_neighbors_mean}",
                "per_type_energy_scales": "${training_data_stats:per_type_forces_rms}",
                "per_type_energy_shifts": "${training_data_stats:per_atom_energy_mean}",
                "per_type_energy_scales_trainable": False,
                "per_type_energy_shifts_trainable": False,
            },
        }

    def prediction(self, outputs: Mapping[Path, Path], *, split: Split, folder: Path) -> Command:  # noqa: ARG002
        command = worker("predict_nequip", python=rival_python("nequip"))
        return Command([*command, split.test, ",".join(SYMBOLS), str(self.model.model["r_max"]), *pairs(outputs)])

    def measurement(self, *, mode: str) -> Command:
        return Command([*worker("measure_nequip", python=rival_python("nequip")), json.dumps(self.model.model), mode])
