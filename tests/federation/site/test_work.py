"""Names of work: another one for each model, split, seed and round."""

from __future__ import annotations

from primia.federation.site.work import evaluation_work, training_work


def test_each_work_has_a_name_of_its_own() -> None:
    names = [
        training_work("model", 1, 2),
        training_work("other", 1, 2),
        training_work("model", 2, 2),
        training_work("model", 1, 3),
        evaluation_work("model", "validation"),
        evaluation_work("model", "test"),
        evaluation_work("other", "test"),
    ]
    assert len(set(names)) == len(names)
    assert training_work("model", 1, 2) == names[0]
