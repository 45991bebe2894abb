"""Compares evaluated runs: the paper's Table 1, Table 2, and Figures 1, 5 and E.1.

No TensorFlow: all input is in the metrics.json of evaluations.

- A row is a label, usually a model. A column is a data set, identified by `data.name`.
  `CW-VAE=logs/a CW-VAE=logs/b` on two data sets is one row.
- Bold and ranks are computed from the numbers as printed, as in the paper. Ranks are competition
  ranks (1, 2, 2, 4), averaged over the columns in which every model has a score, and rounded half
  to even. The best of several samples and the baselines have no rank.
- PSNR and SSIM are of one protocol; the table of further measures has the other one.
"""

import contextlib
import pathlib
import re
from collections.abc import Sequence

from cwvae.comparison import agreement, costs, figures, formats, paper, runs, tables
from cwvae.errors import UserError
from cwvae.evaluation.results import metric_name
from cwvae.run import files
from cwvae.run import folder as run_folder

# Files that a comparison may write.
_STEMS = re.compile(
    "table|training|measures|kl|ranks|psnr|ssim|lpips|fvd_prefixes|fvd_windows|readout_.*"
)
_SUFFIXES = (".md", ".csv", ".tex", ".png", ".pdf")


def compare(
    arguments: Sequence[str],
    out: str | pathlib.Path,
    protocol: str = "standard",
    with_paper: bool = False,
    with_costs: bool = False,
) -> tuple[str, list[pathlib.Path]]:
    """Compares runs and writes tables and figures.

    Args:
      arguments: Runs, as RUN or LABEL=RUN.
      out: The folder to write into, which is created. It holds the files of one comparison, also
        after a crash: table.md is removed first, and written last.
      protocol: Protocol of PSNR and SSIM.
      with_paper: Whether to add the paper's scores, which do not need runs.
      with_costs: Whether to add the table of training costs.

    Returns:
      The content of the .md files, and all files.

    Raises:
      UserError: A run that is not evaluated, runs that cannot be compared, or a folder that cannot
        be written or in which another process is at work.
    """
    every = runs.read(arguments)
    groups = runs.by_data(every)
    first = [name for name in paper.published()["datasets"] if name in groups]  # in its order
    groups = {name: groups[name] for name in dict.fromkeys([*first, *groups])}
    remarks = [note for group in groups.values() for note in agreement.check(group, protocol)]
    columns_of_paper = paper.columns(groups) if with_paper else {}
    table, ranks = tables.table_1(groups, columns_of_paper, protocol)
    table.notes[:0] = _notes_on_protocol(groups, protocol)
    table.notes.extend([*_notes_on_scores(groups), *remarks])
    if columns_of_paper:
        table.notes.extend(paper.notes(groups, columns_of_paper))
    more = tables.other_measures(groups, protocol), tables.kl_table(groups, columns_of_paper)
    contents = formats.texts([table, *(other for other in more if other)])
    contents |= costs.texts(every) if with_costs else {}
    text = "\n".join(content for name, content in contents.items() if name.endswith(".md"))
    contents |= figures.curves(groups, protocol) | figures.ranks(ranks)
    return text, _write(pathlib.Path(out), contents)


def _notes_on_protocol(groups, protocol):
    """Returns notes on how scores were computed, by measure and by data set."""
    said = []
    for metric in ("ssim", "psnr", "lpips"):
        name = metric_name(metric, protocol)
        about = [r.metrics[name] for g in groups.values() for r in g if name in r.metrics]
        texts = dict.fromkeys(measure["protocol"] for measure in about)
        said += [f"{metric.upper()} ({'; '.join(texts)})"] * bool(texts)
    notes = [f"Protocol: {', '.join(said)}."] if said else []
    for data, (run, *_) in groups.items():
        results = run.results
        samples, levels = results["num_samples"], results["observe_levels"]
        name = paper.label(data)
        notes.append(
            f"{name}{'' if name == data else f' ({data})'}: {results['context']} context"
            f" frames, {results['horizon']} predicted, {results['num_videos']} videos, {samples}"
            f" sample{'' if samples == 1 else 's'} per video, frames of {results['frames']}"
            + (f", levels that see the context: {levels}" if levels else "")
            + "."
        )
    return notes


def _notes_on_scores(groups):
    """Returns notes on how FVD was computed, and on why scores are missing."""
    notes, missing = [], {}
    for run in (run for group in groups.values() for run in group):
        name, fvd = paper.label(run.data), run.results["fvd"]
        if fvd:
            floor = fvd["floor"]["value"]
            real = f"; between real videos {floor:.0f} ({fvd['floor']['source']})" if floor else ""
            notes.append(f"FVD on {name}: {fvd['protocol']}; I3D module {fvd['module']}{real}.")
            notes += [f"{name}: {warning}" for warning in fvd["warnings"]]
        for metric, why in run.results["not_computed"].items():
            where = f"{run.label} on {name}"
            missing.setdefault((metric, " ".join(why.split())), []).append(where)
    for (metric, why), where in missing.items():
        notes.append(f"{metric.upper()} not computed for {', '.join(where)}: {why}")
    return list(dict.fromkeys(notes))


def _write(folder, contents):
    """Writes files, removes those of an earlier comparison, and returns the paths."""
    try:
        # The first file gets its name last, because the stack is unwound from the end.
        with run_folder.locked(folder, "--out"), contextlib.ExitStack() as stack:
            for name in ("table.md", *(name for name in contents if name != "table.md")):
                files.remove_leftovers(folder, f"{name}.")
                aside, content = stack.enter_context(files.whole(folder / name)), contents[name]
                aside.write_bytes(content.encode() if isinstance(content, str) else content)
            (folder / "table.md").unlink(missing_ok=True)
            for old in folder.iterdir():
                ours = old.suffix in _SUFFIXES and _STEMS.fullmatch(old.stem)
                if ours and old.name not in contents:
                    old.unlink()
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot write there ({error.strerror}). Give another folder."
        ) from None
    return [folder / name for name in contents]
