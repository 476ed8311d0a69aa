# %% [markdown]
# # A look at a run
#
# Areas of the cells by slide, and twelve MK. Each `# %%` begins a cell of a notebook: editors show them so,
# and `jupytext --to notebook look_at_a_run.py` makes an .ipynb file. As a script:
#
#     python look_at_a_run.py RUN PICTURE.png

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np

import mkhspc

run_directory, picture = sys.argv[1:] if len(sys.argv) == 3 else ("run", "run.png")
run = mkhspc.open_run(run_directory)
slides = [slide.slide_id for slide in run.slides]

# %%
figure = plt.figure(figsize=(11, 7), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(2, 3))

# %% Areas by slide: no other column is read
for axes, cell_type in zip(left.subplots(2, 1), ("mk", "hspc"), strict=True):
    tables = [run.cells(cell_type=cell_type, slide=slide, columns=["area_um2"]) for slide in slides]
    axes.boxplot([table["area_um2"].to_numpy() for table in tables])
    counts = [f"{slide}\n{table.num_rows} cells" for slide, table in zip(slides, tables, strict=True)]
    axes.set_xticks(range(1, len(slides) + 1), counts)
    axes.set_ylabel(f"area of {cell_type.upper()} in µm²")

# %% Twelve MK, drawn at random from all slides
ids = run.cells(cell_type="mk", columns=["cell_id"])["cell_id"].to_pylist()
drawn = np.random.default_rng(0).choice(ids, size=min(12, len(ids)), replace=False)
right.suptitle(f"{len(drawn)} of {len(ids)} MK, each in a square of 80 µm")
for axes in right.subplots(3, 4).flat:
    axes.axis("off")
for axes, cell_id, crop in zip(right.axes, drawn, run.crops(drawn), strict=False):
    axes.imshow(crop)
    axes.set_title(cell_id, fontsize=7)

# %%
figure.savefig(picture, dpi=120)
