"""Where studies live: a SQLite file that Optuna and its dashboard read, and the memory of the process that searches.

Through Optuna's own database storage a trial of 22 choices costs 22 transactions, and every question to the study two
queries: as long as the evaluation of a small network. Here a search asks its memory, and a trial is written as a whole.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState


def open_storage(path: Path) -> RDBStorage:
    """Optuna's storage in the SQLite file `path`, which is made if it is missing."""
    return RDBStorage(
        sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(),
        engine_kwargs={"connect_args": {"timeout": 60}},
    )


class KeptStorage(InMemoryStorage):
    """One study in memory that a database follows: for the one process that writes to it.

    A new trial is in memory only, until `keep` or its end writes all of it in one transaction; a queued one is written
    when it is queued. Whatever happens to a trial that was written is written at once. So a kill loses trials that
    nobody works on yet, and nothing else. What samplers note about the whole study stays in memory: they can find it
    again from the trials.
    """

    def __init__(
        self,
        database: RDBStorage,
        *,
        name: str,
        as_seen: Callable[[Sequence[FrozenTrial]], Sequence[FrozenTrial]] = lambda trials: trials,
    ) -> None:
        """Read a study.

        Args:
            database: from `open_storage`.
            name: of the study, which must be there.
            as_seen: what the search sees of the trials that are read, in their order; the database keeps its own.
        """
        super().__init__()
        self._database = database
        self._database_study = database.get_study_id_from_name(name)
        self._study = super().create_new_study(database.get_study_directions(self._database_study), name)
        for key, value in database.get_study_user_attrs(self._database_study).items():
            super().set_study_user_attr(self._study, key, value)
        read = database.get_all_trials(self._database_study, deepcopy=False)
        for trial in as_seen(read):
            super().create_new_trial(self._study, trial)
        self._num_read = len(read)
        self._rows: dict[int, int] = {}

    def keep(self, number: int) -> None:
        """Write a trial as it is now, if it is not yet written.

        Args:
            number: of the trial; trials are kept in the order of their numbers.
        """
        trial_id = self.get_trial_id_from_study_id_trial_number(self._study, number)
        if self._row(trial_id) is None:
            trial = self.get_trial(trial_id)
            self._rows[trial_id] = self._database.create_new_trial(self._database_study, trial)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A new trial; a queued one is written."""
        trial_id = super().create_new_trial(study_id, template_trial)
        if template_trial is not None:
            self.keep(self.get_trial_number_from_id(trial_id))
        return trial_id

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ANN401 - Optuna's signature
        """Note something about the study, for its users."""
        self._database.set_study_user_attr(self._database_study, key, value)
        super().set_study_user_attr(study_id, key, value)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Give a parameter its value."""
        if (row := self._row(trial_id)) is not None:
            self._database.set_trial_param(row, param_name, param_value_internal, distribution)
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: ANN401 - Optuna's signature
        """Note something about a trial, for its users."""
        if (row := self._row(trial_id)) is not None:
            self._database.set_trial_user_attr(row, key, value)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: ANN401 - Optuna's signature
        """Note something about a trial, for samplers."""
        if (row := self._row(trial_id)) is not None:
            self._database.set_trial_system_attr(row, key, value)
        super().set_trial_system_attr(trial_id, key, value)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Note a value on the way."""
        if (row := self._row(trial_id)) is not None:
            self._database.set_trial_intermediate_value(row, step, intermediate_value)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Begin or end a trial; its end is written in any case."""
        if (row := self._row(trial_id)) is not None:
            self._database.set_trial_state_values(row, state, values)
        is_set = super().set_trial_state_values(trial_id, state, values)
        if state.is_finished():
            self.keep(self.get_trial_number_from_id(trial_id))
        return is_set

    def _row(self, trial_id: int) -> int | None:
        """The trial's id in the database, None for one that is not kept yet."""
        if trial_id not in self._rows and (number := self.get_trial_number_from_id(trial_id)) < self._num_read:
            self._rows[trial_id] = self._database.get_trial_id_from_study_id_trial_number(self._database_study, number)
        return self._rows.get(trial_id)
