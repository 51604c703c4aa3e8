"""What holds for every test."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices as small as the tests' are slower on several cores; before NumPy is there

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(2)  # the same sums on every machine, and no fight over the cores of a small one


# The same few examples on every machine in the suite; many, and new ones every time, with HYPOTHESIS_PROFILE=torture.
_ANY = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much]
settings.register_profile("suite", max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=_ANY)
settings.register_profile("torture", max_examples=1500, deadline=None, print_blob=True, suppress_health_check=_ANY)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test with a parameter "spark" runs on the one session there is; it is skipped where there cannot be one."""
    lacks = "PySpark is not installed" if find_spec("pyspark") is None else "there is no Java" if shutil.which("java") is None else None
    for item in items:
        if any(isinstance(value, str) and value == "spark" for value in getattr(getattr(item, "callspec", None), "params", {}).values()):
            item.fixturenames.insert(0, "spark")  # type: ignore[attr-defined]
        if "spark" in getattr(item, "fixturenames", ()) and lacks and os.environ.get("HABITUS_REQUIRE_SPARK") != "1":
            item.add_marker(pytest.mark.skip(reason=lacks))


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """A real Spark with two executors, each a process of its own, as on a cluster."""
    from habitus.log.spark import started

    settings = {
        "spark.sql.shuffle.partitions": "2", "spark.executor.memory": "768m", "spark.locality.wait": "0s",
        # Tables of a few rows: compiling code for a query takes longer than the query.
        "spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN", "spark.sql.adaptive.enabled": "false",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1", "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    }  # fmt: skip
    session = started(os.environ.get("HABITUS_SPARK_MASTER", "local-cluster[2,1,1024]"), settings)
    yield session
    session.stop()
