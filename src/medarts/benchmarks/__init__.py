"""Tables of trained networks, on which rules that choose an architecture are tested in seconds instead of days."""

from medarts.benchmarks.rules import Outcome, Rule, Trials, simulate
from medarts.benchmarks.table import Table, load_table, read_table

__all__ = ["Outcome", "Rule", "Table", "Trials", "load_table", "read_table", "simulate"]
