"""`KleinRestorer`: faces restored by FLUX.2 klein 4B, distilled (4 steps) or base (12 steps with guidance).

Sources: IConFace (arXiv 2605.02814) for sequence, steps and guidance; diffusers' klein pipeline for codec and
schedule. Requests go one by one on every device: one face's tokens fill a GPU, and no result depends on its company.

Shapes: R references, N tokens of a picture, C their channels, S = 512 side of a crop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from models.iconface.klein.adapter import Adapter, load_adapter
from models.iconface.klein.folder import KleinFolder, Prompts, prompts_of
from models.iconface.klein.memory import keep_away, plan
from models.iconface.klein.network import Velocity, load_codec, load_network
from models.iconface.requests import ReferenceRestorer, images_of
from models.iconface.sampling import fixed_noise, klein_shift, sigmas
from models.iconface.settings import SEED, KleinSettings
from models.protocols import References, Request, Result
from models.weights import CheckpointError

CROP_PX = 512


DISTILLED, BASE = (4, 1.0), (12, 4.0)
"""Steps and guidance that each model was made for."""


class KleinRestorer(ReferenceRestorer[Velocity]):
    """Restores aligned faces of 512 pixels with 0 to 3 references."""

    # What is kept of a reference under our adapters, keys and values of 25 blocks, is 0.3 GB.
    kept_sets = 2

    def __init__(
        self,
        settings: KleinSettings | None = None,
        device: str | torch.device = "cpu",
        *,
        seed: int = SEED,
        crop_size: int = CROP_PX,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """`seed`: of the one noise that all faces start from.

        Raises `CheckpointError` for parts that are missing or do not fit, `ConfigError` where memory does not suffice,
        transformers is needed and missing, or the prompt would be ignored.
        """
        settings = settings or KleinSettings()
        folder = KleinFolder(settings.model)
        loaded = _adapter(settings)
        crop_size = 16 * loaded.shape.rows if loaded.shape else crop_size
        super().__init__(crop_size, device)
        self._check_embedding(loaded)
        steps, guidance = DISTILLED if folder.distilled else BASE
        self.steps = steps if settings.steps is None else settings.steps
        self.guidance = guidance if settings.guidance is None else settings.guidance
        where = plan(folder, loaded, self.device, self.kept_sets, (crop_size // 16) ** 2, dtype)
        # First of all, so that text encoder and transformer are never in memory together.
        self.prompts = prompts_of(folder, settings.prompt, dtype, self.device, where.text)
        self._check_guidance(folder, self.prompts)
        home = torch.device("cpu") if where.by_blocks else self.device
        self.network = load_network(folder, loaded, crop_size // 16, dtype, home)
        self.codec = load_codec(folder, dtype, self.device)
        if where.by_blocks:
            keep_away(self.network.module, self.network.blocks(), self.device)
        channels = int(folder.transformer["in_channels"])
        self.noise = fixed_noise(seed, self.network.rows**2, channels).to(self.device)

    def _groups(self, requests: Sequence[Request]) -> list[list[int]]:
        return [[index] for index in range(len(requests))]

    def _batch(self, requests: list[Request]) -> list[Result]:
        (request,) = requests
        degraded = self.codec.encode(self._pictures([request.crop]))
        if len(request.references):
            towards = self._known(request.references)
        else:
            towards = self.network.alone(self._embeddings([request.crop]))
        scene = self._sample(towards, degraded)
        return [Result(image) for image in images_of(self.codec.decode(scene, self.network.rows))]

    def _sample(self, towards: Velocity, degraded: Tensor) -> Tensor:
        """Clean tokens (1, N, C) of `degraded` ones, by Euler steps from the noise."""
        prompts, scene = self.prompts, self.noise
        shift = klein_shift(scene.shape[1], self.steps)
        for now, following in pairwise(sigmas(self.steps, shift)):
            sigma = scene.new_full((1,), now)
            direction = towards(scene, sigma, degraded, prompts.prompt)
            if self.guidance != 1 and prompts.empty is not None:
                # The empty prompt sees the same pictures, as in the code published with the first adapter.
                unguided = towards(scene, sigma, degraded, prompts.empty)
                direction = unguided + self.guidance * (direction - unguided)
            scene = scene + (following - now) * direction
        return scene

    def _worked_out(self, references: References) -> Velocity:
        """The velocity that a set of references gives."""
        crops, embeddings = self._clearest(references, self._encoder.network.shape.embedding)
        # One by one: each is as large as the face itself.
        tokens = torch.cat([self.codec.encode(self._pictures([crop])) for crop in crops])  # (R, N, C)
        return self.network.seeing(tokens[None], embeddings[None])

    def _check_embedding(self, adapter: Adapter) -> None:
        width = self._encoder.network.shape.embedding
        if adapter.shape is not None and adapter.shape.embedding != width:
            raise CheckpointError(
                f"{adapter.path}: made for embeddings {adapter.shape.embedding} wide, the encoder's are {width}"
            )

    def _check_guidance(self, folder: KleinFolder, prompts: Prompts) -> None:
        if self.guidance != 1 and prompts.empty is None:
            raise CheckpointError(f"{folder.prompt_file}: holds no `empty`, which guidance needs")


def _adapter(settings: KleinSettings) -> Adapter:
    if settings.adapter is not None:
        return load_adapter(settings.adapter.expanduser())
    logging.getLogger(__name__).warning(
        "%s: without an adapter klein was never trained to restore; faces may change", settings.model
    )
    return Adapter()
