"""Wikipedia in the paper's 12 languages, as TensorFlow Datasets prepares the dump of June 2023.

* `wikipedia_{language}_{spoken|written}_{denoising|clm}`: 48 tasks.
* `wikipedia_pretrain`: their mixture, after recipe §2 and §3.

Nothing is read, downloaded or loaded before a task is used. Then $ALEXATM_VOCABULARY names the
vocabulary; $ALEXATM_BENCHMARKS, if it is set when this is imported, an n-gram file of
`python -m alexatm_jax.text.decontamination`; and TFDS looks for the data in $TFDS_DATA_DIR or its
own folder, where `tfds.builder("wikipedia/20230601.de:1.0.0").download_and_prepare()` and the like
put them (TFDS 4.9.10 needs the package importlib_resources for that, and says so only then). The
date is our choice: the paper gives none.
"""

from __future__ import annotations

import os

from alexatm_jax.data.recipe import TextRecipe, TfdsText
from alexatm_jax.data.seqio_recipe import add_recipe_mixture, add_recipe_tasks
from alexatm_jax.text.spoken import LANGUAGES

WIKIPEDIA = TfdsText(
    "wikipedia",
    {language: (f"wikipedia/20230601.{language}:1.0.0", "train") for language in LANGUAGES},
    weight=10,
)
RECIPE = TextRecipe(
    [WIKIPEDIA],
    vocabulary="$ALEXATM_VOCABULARY",
    benchmark_ngrams=os.environ.get("ALEXATM_BENCHMARKS"),
)

add_recipe_tasks(RECIPE, RECIPE.benchmark_ngrams)
add_recipe_mixture(RECIPE, "wikipedia_pretrain")
