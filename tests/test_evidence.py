"""What is on record: all runs of a sweep or none, in a profile or in the first that has them."""
from learngene.evidence import first_on_record, runs_on_record, stores_of
from learngene.tables import Results


def test_runs_on_record_are_all_or_none(tmp_path):
    cells, records = runs_on_record(Results("digits"), "table8")
    assert len(cells) == len(records) > 0
    assert runs_on_record(Results("pico"), "table8") == ([], []), "pico has no such sweep"
    assert runs_on_record(Results("digits", tmp_path, fresh=True), "table8") == ([], []), "its runs are not made yet"


def test_the_first_profile_that_has_all_runs(tmp_path):
    stores = stores_of("smoke", tmp_path)
    assert list(stores) == ["smoke", "digits", "pico"] and list(stores_of("pico")) == ["pico", "digits"]
    assert stores["smoke"].folder == tmp_path / "smoke" and stores["pico"].folder == Results("pico").folder
    assert first_on_record(stores, "table8")[0] == "digits"
    assert first_on_record({"pico": stores["pico"]}, "table8") == (None, [], [])
