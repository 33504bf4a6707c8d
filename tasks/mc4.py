"""mC4 in the paper's 12 languages, from TensorFlow Datasets; with Wikipedia, the paper's mixture.

* `mc4_{language}_{spoken|written}_{denoising|clm}`: 48 tasks.
* `mc4_pretrain`: their mixture, after recipe §2 and §3.
* `alexatm_pretrain`: that of these and the tasks of `wikipedia.py`, 96 in all.

Version 3.0.1 was current when the paper was written, and copies of it can be downloaded; TFDS
prepares 3.1.0 anew from Common Crawl. Our choice: the paper gives no version. Both are read; bind
`recipe.TfdsText` in gin to name another. What has to be set is said in `wikipedia.py`.
"""

from __future__ import annotations

import dataclasses

from alexatm_jax.data.recipe import TfdsText
from alexatm_jax.data.seqio_recipe import add_recipe_mixture, add_recipe_tasks
from alexatm_jax.tasks import wikipedia
from alexatm_jax.text.spoken import LANGUAGES

MC4 = TfdsText("mc4", {language: ("c4/multilingual:3.0.1", language) for language in LANGUAGES})
RECIPE = dataclasses.replace(wikipedia.RECIPE, sources=[MC4])
PAPER = dataclasses.replace(wikipedia.RECIPE, sources=[wikipedia.WIKIPEDIA, MC4])

add_recipe_tasks(RECIPE, RECIPE.benchmark_ngrams)
add_recipe_mixture(RECIPE, "mc4_pretrain")
add_recipe_mixture(PAPER, "alexatm_pretrain")
