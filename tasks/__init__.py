"""SeqIO tasks that come with alexatm_jax; importing this registers all of them."""

from alexatm_jax.tasks import cldr as cldr
