"""Exported networks of the zoo: they give what PyTorch gives."""

import pytest
from tests.deploy.networks_of_tests import ZOO, check_exported


@pytest.mark.parametrize("name", ZOO)
def test_an_exported_network_of_the_zoo_gives_what_pytorch_gives(name: str) -> None:
    check_exported(name, *ZOO[name], openvino=name == "darts_v2")
