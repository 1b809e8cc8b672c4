"""MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from yolorep.console import say
from yolorep.errors import UserError, first_line
from yolorep.files import write_text
from yolorep.training.loggers.base import Logger, Row, tagged


class MLflow(Logger):
    """A run in ``mlflow.db`` in the run folder, or where ``MLFLOW_TRACKING_URI`` says; resuming goes on with it.

    ``MLFLOW_EXPERIMENT_NAME`` names the experiment, ``yolorep`` otherwise.
    """

    requires = "mlflow"
    environment: ClassVar = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    leaves = ("mlflow.db", "mlflow.id")

    def start(self, folder: Path, *, options: Mapping[str, Any], hyp: Mapping[str, Any], rows: Sequence[Row]) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            uri = f"sqlite:///{(folder / 'mlflow.db').resolve().as_posix()}"
            say(f"MLflow: look at the run with: mlflow ui --backend-store-uri {uri}")
        self.client = MlflowClient(tracking_uri=uri)
        known = folder / "mlflow.id"
        try:
            if known.is_file():
                self.run_id = known.read_text(encoding="utf-8")
                self.client.update_run(self.run_id, status="RUNNING")
                return
            self.run_id = self._new_run(folder.name, {"options": options, "hyp": hyp})
        except MlflowException as error:
            raise UserError(f"--log mlflow: {uri}: {first_line(error)}; see MLFLOW_TRACKING_URI") from error
        write_text(known, self.run_id)
        for row in rows:
            self.epoch(row)

    def _new_run(self, name: str, values: Mapping[str, Mapping[str, Any]]) -> str:
        from mlflow.entities import Param

        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", "yolorep")
        experiment = self.client.get_experiment_by_name(title)
        number = experiment.experiment_id if experiment else self.client.create_experiment(title)
        run_id: str = self.client.create_run(number, run_name=name).info.run_id
        for kind, entries in values.items():  # at most a hundred at once are taken
            self.client.log_batch(run_id, params=[Param(f"{kind}/{key}", str(entries[key])) for key in entries])
        return run_id

    def epoch(self, row: Row) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now = int(time.time() * 1000)
        metrics = [Metric(tag, value, now, int(row["epoch"])) for tag, value in tagged(row).items()]
        try:
            self.client.log_batch(self.run_id, metrics=metrics)
        except MlflowException as error:  # a server that is away costs its points, not the run
            say(f"MLflow: epoch {row['epoch']:.0f} is not logged: {first_line(error)}")

    def close(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.set_terminated(self.run_id)
        except MlflowException as error:
            say(f"MLflow: the run is not closed: {first_line(error)}")
