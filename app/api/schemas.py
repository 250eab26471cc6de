"""Parameters and responses of every call, as pydantic models: FastAPI validates by them and documents them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.images import MAX_DEPTH, MIN_DEPTH
from model.record import EpochRecord

Matrix = list[list[float]]
Format = Annotated[
    Literal["json", "npz", "png"] | None,
    Field(description="Format of the response; overrules the Accept header. png is for responses with images."),
]
Seed = Annotated[
    int,
    Field(
        ge=0,
        lt=1 << 32,
        description="Seed of all random draws: the same seed gives the same result, whatever else is in the batch.",
    ),
]
Strict = Annotated[
    bool, Field(description="Refuse an image of another size or mode instead of converting it as the card says.")
]
Depth = Annotated[
    int,
    Field(
        ge=MIN_DEPTH,
        le=MAX_DEPTH,
        description="Number of significant bits in the pixels of 16-bit grey images: with 12, white is 4095 instead of "
        "65535. Other images are not affected.",
    ),
]
Label = Annotated[str | None, Field(description="Name of a label that the prior distinguishes: `labels` of the card.")]
Noise = Annotated[bool, Field(description="Draw x from P(x given z) instead of taking its mean.")]


class Params(BaseModel):
    """Query parameters; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoParams(Params):
    """No parameters."""


class EncodeParams(Params):
    strict: Strict = False
    depth: Depth = MAX_DEPTH
    format: Format = None


class ReconstructParams(Params):
    strict: Strict = False
    depth: Depth = MAX_DEPTH
    inputs: bool = Field(default=False, description="Add the inputs as the model sees them, after conversion.")
    format: Format = None


class DecodeParams(Params):
    noise: Noise = False
    seed: Seed = 0
    format: Format = None


class InterpolateParams(Params):
    steps: int = Field(default=16, ge=2, description="Number of points on the way, with both ends.")
    along: Literal["latent", "prior"] = Field(
        default="prior",
        description="latent: a straight line between the latents. prior: an arc between the points that the prior maps "
        "to them, so that the way leads through what the prior holds probable.",
    )
    of: Literal["inputs", "latents"] = Field(
        default="inputs", description="The two rows of the body: inputs, whose latent means are the ends, or latents."
    )
    strict: Strict = False
    depth: Depth = MAX_DEPTH
    format: Format = None


class SampleParams(Params):
    n: int = Field(default=16, ge=1, description="Number of samples.")
    seed: Seed = 0
    temperature: float = Field(default=1.0, ge=0, le=10, description="Standard deviation of the draws of epsilon.")
    label: Label = None
    noise: Noise = False
    format: Format = None


class FreeEnergyParams(Params):
    samples: int = Field(default=1, ge=1, description="K, the number of draws of z per input.")
    refine: int = Field(
        default=0, ge=0, le=1000, description="S, gradient steps that fit Q to each input before it is scored."
    )
    seed: Seed = 0
    per_dimension: bool = Field(
        default=False,
        description="Add nlog P(x_i given z), in autoregressive models also given preceding bytes; as png, a map.",
    )
    label: Label = None
    label_probabilities: bool = Field(default=False, description="Estimate P(label|x) of every label.")
    strict: Strict = False
    depth: Depth = MAX_DEPTH
    format: Format = None


class GalleryParams(Params):
    format: Literal["json", "png"] | None = Field(
        default=None, description="json, or png for the thumbnails; overrules the Accept header."
    )


class PlaceParams(Params):
    format: Format = None


class GalleryInputParams(Params):
    index: int = Field(default=0, ge=0, description="Index of an input of the gallery, from 0.")
    format: Format = None


class Answer(BaseModel):
    """Base of JSON responses. The examples show one input to a model of 2x2 images with 2 latent dimensions."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def example(**values: Any) -> ConfigDict:
    """The model configuration of a response that is documented with this example."""
    return ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [values]})


class Encoded(Answer):
    """Q(z|x) of each input."""

    model_config = example(mean=[[0.81, -1.32]], variance=[[0.04, 0.09]])

    mean: Matrix = Field(description="n x latent.")
    variance: Matrix = Field(description="n x latent; the square of the standard deviation.")


class Decoded(Answer):
    """x in its own units, n rows."""

    model_config = example(outputs=[[[0.0, 0.25], [0.5, 1.0]]])

    outputs: list[Any] = Field(description="n x height x width (x 3), clipped to [0, 1]; for vectors n x columns.")


class Reconstructed(Decoded):
    """The mean of P(x|z) at the mean of Q(z|x)."""

    inputs: list[Any] | None = Field(
        default=None, description="The inputs as the model sees them, shaped like outputs; if requested."
    )


class Sampled(Decoded):
    """Samples, with the latents they were decoded from."""

    model_config = example(outputs=[[[0.0, 0.25], [0.5, 1.0]]], latents=[[0.13, -0.58]])

    latents: Matrix = Field(description="n x latent, as /decode takes them.")
    labels: list[str] | None = Field(
        default=None, description="The label of each sample; only if the model distinguishes labels."
    )


class Interpolated(Decoded):
    """Points on the way between two inputs or latents, with their latents."""

    model_config = example(outputs=[[[0.0, 0.25], [0.5, 1.0]]], latents=[[0.13, -0.58]])

    latents: Matrix = Field(description="steps x latent, as /decode takes them.")


class FreeEnergies(Answer):
    """Scores in nats per sample, one of each per input: free_energy = distortion + rate >= nlog P(x)."""

    model_config = example(
        samples=16,
        refine=20,
        seed=0,
        free_energy=[11.75],
        standard_error=[0.21],
        distortion=[7.5],
        cross_entropy=[3.25],
        entropy=[-1.0],
        rate=[4.25],
        rate_analytic=[4.31],
        bits_per_dim=[4.237],
        nlog_p_x=[11.5],
        inference_gap=[0.25],
        effective_sample_size=[9.8],
        regret=[0.42],
        typicality=[-0.3],
        p_values={"free_energy": [0.31], "free_energy_two_sided": [0.62], "regret": [0.44], "typicality": [0.58]},
        p_values_reason=None,
    )

    samples: int = Field(description="K, the number of draws per input.")
    refine: int = Field(description="S, the number of steps that fitted Q to each input before scoring.")
    seed: int
    free_energy: list[float] = Field(description="Mean over the draws of minus the log-weight.")
    standard_error: list[float] | None = Field(
        description="Standard error of free_energy over the draws; null at K = 1."
    )
    distortion: list[float] = Field(description="E_Q[nlog P(x|z)].")
    cross_entropy: list[float] = Field(description="E_Q[nlog P(z)].")
    entropy: list[float] = Field(description="H(Q), estimated from the same draws.")
    rate: list[float] = Field(description="cross_entropy - entropy: KL(Q(z|x), P(z)) from the same draws.")
    rate_analytic: list[float] | None = Field(
        description="KL(Q(z|x), P(z)) in closed form; null where the prior has none."
    )
    bits_per_dim: list[float] | None = Field(
        description="free_energy / (D ln 2); null where x is real and free_energy a density's."
    )
    nlog_p_x: list[float] = Field(
        description="Importance-weighted estimate of nlog P(x): an upper bound in expectation."
    )
    inference_gap: list[float] = Field(description="free_energy - nlog_p_x: KL(Q, P(z|x)) from below.")
    effective_sample_size: list[float] = Field(description="Effective number of the K draws, by their weights: 1 to K.")
    regret: list[float] | None = Field(
        description="Free energy of the encoder's Q minus that of the refined Q; null at S = 0."
    )
    typicality: list[float] | None = Field(
        description="Distance from typical inputs, by latent and scores; no unit, about 0 for typical inputs."
    )
    p_values: dict[Literal["free_energy", "free_energy_two_sided", "regret", "typicality"], list[float]] | None = Field(
        description="By score: (1 + #{reference >= score}) / (n + 1), over n inputs that neither fitted nor chose "
        "the model; in npz as p_values.free_energy and so on."
    )
    p_values_reason: str | None = Field(
        description="Why p_values is null: samples, refine or seed differ from those of the calibration."
    )
    per_dimension: list[Any] | None = Field(
        default=None,
        description="The terms of distortion, shaped like an input, averaged over the draws; only if requested.",
    )
    labels: list[str] | None = Field(
        default=None,
        description="The label that each input was scored given; only if one was given. Q knows no labels.",
    )
    label_probabilities: Matrix | None = Field(
        default=None,
        description="n x labels, in the order of the card; only if requested. An estimate of P(label|x), from bounds: "
        "in proportion to P(label) times the mean over the draws of P(x|z) P(z|label) / Q(z|x).",
    )


LIMITS = {
    "max_body_bytes": 33554432,
    "max_rows": 1024,
    "max_samples": 5000,
    "max_work": 65536,
    "max_pixels": 67108864,
    "deadline": 60.0,
}


class Limits(Answer):
    """Limits of one request."""

    model_config = example(**LIMITS)

    max_body_bytes: int
    max_rows: int
    max_samples: int
    max_work: int = Field(description="Rows x samples x (1 + refine) of a free energy.")
    max_pixels: int = Field(description="Pixels of all images of a request, before they are resized.")
    deadline: float = Field(description="Seconds.")


class CalibratedFor(Answer):
    """Settings of scores that have p-values."""

    model_config = example(samples=1, refine=0, seed=0, inputs=5000, typicality_inputs=2500)

    samples: int
    refine: int
    seed: int
    inputs: int = Field(description="Number of calibration inputs that scores are compared with.")
    typicality_inputs: int | None = Field(
        description="Number of them that typicality is compared with; the others fitted typicality."
    )


COMPUTED = {"engine": "onnxruntime 1.32.0", "precision": "float32", "error": 7.4e-7}


class Computed(Answer):
    """What computes one model function."""

    model_config = example(**COMPUTED)

    engine: str = Field(description="Runtime and version.")
    precision: str
    error: float = Field(
        description="Largest difference from torch in float32 at startup, divided by the largest magnitude."
    )


WARNING = {
    "code": "not_evaluated",
    "title": "The model has not been evaluated",
    "text": "Its quality on new data is unknown. Run vae evaluate --save to measure it.",
}


class CardWarning(Answer):
    """A likely fault of the model, and its remedy."""

    model_config = example(**WARNING)

    code: str = Field(description="Stable name of the rule.")
    title: str
    text: str


class ModelCard(Answer):
    """What is served."""

    model_config = example(
        name="tiny",
        digest="5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
        created="2026-01-01",
        data={"kind": "image", "height": 2, "width": 2, "channels": 1},
        conversion="resized",
        latent=2,
        network={"name": "mlp", "hidden": [8]},
        prior={"name": "standard"},
        labels=None,
        likelihood={"name": "discretized", "components": 3, "min_scale": 0.1, "uniform": 0.00390625},
        weights=422,
        discrete=True,
        anomaly_score="typicality",
        calibrations=[{"samples": 1, "refine": 0, "seed": 0, "inputs": 5000, "typicality_inputs": 2500}],
        training=None,
        evaluation=None,
        warnings=[WARNING],
        device="cpu",
        threads=2,
        computed={"encode": COMPUTED, "decode": COMPUTED, "score": COMPUTED},
        limits=LIMITS,
        version="0.1.0",
    )

    name: str
    digest: str = Field(description="SHA-256 of configuration and weights; also X-Model-Digest.")
    created: str
    data: dict[str, Any] = Field(description="Kind and sizes; for vectors also columns and standardization.")
    conversion: str | None = Field(description="How an image of another size or mode is converted.")
    latent: int
    network: dict[str, Any]
    prior: dict[str, Any] = Field(description="standard: N(0, I); flow: a distribution that was fitted to the latents.")
    labels: list[str] | None = Field(description="Names of the labels that the prior distinguishes; null without any.")
    likelihood: dict[str, Any]
    weights: int = Field(description="Number of learned parameters.")
    discrete: bool = Field(description="True if free energy is a code length, with bits per dimension.")
    anomaly_score: Literal["free_energy", "typicality"] = Field(description="The score that detects outliers best.")
    calibrations: list[CalibratedFor] = Field(description="Settings of free energies that have p-values.")
    training: dict[str, Any] | None
    evaluation: dict[str, Any] | None = Field(description="The report of `vae evaluate`.")
    warnings: list[CardWarning] = Field(description="Likely faults of the model; empty if there are none.")
    device: str
    threads: int
    computed: dict[str, Computed] = Field(description="What computes each model function.")
    limits: Limits
    version: str = Field(description="Version of the service.")


class Projection(Answer):
    """Projection of the means of Q to a plane: coordinates = (mean - origin) @ axes.T."""

    method: Literal["pca"]
    explained: list[float] = Field(description="Share of the variance that each axis explains.")
    coordinates: Matrix = Field(description="Coordinates of each input, n x 2.")
    origin: list[float] = Field(description="The mean of the means.")
    axes: Matrix = Field(description="2 x latent, orthonormal.")


class Embedding(Answer):
    """Places of the inputs on a plane where near means of Q are near; longer distances mean nothing."""

    method: Literal["tsne"]
    coordinates: Matrix = Field(description="Coordinates of each input, n x 2.")


class Placed(Answer):
    """Coordinates of n latents on the maps of the gallery, n x 2 each."""

    model_config = example(projection=[[0.81, -1.32]], embedding=[[10.5, -3.25]])

    projection: Matrix = Field(description="On the plane of principal components.")
    embedding: Matrix | None = Field(description="In the embedding; null if the gallery has none.")


class Histogram(Answer):
    """Histogram of the free energies of all calibration inputs, nats."""

    edges: list[float] = Field(description="Edges of the bins: one more than counts.")
    counts: list[int]


class Thumbnails(Answer):
    """Layout of the thumbnails in format=png: row by row, `columns` in a row, each `width` x `height` pixels."""

    columns: int
    width: int
    height: int


GalleryScores = Annotated[
    dict[
        Literal["free_energy", "distortion", "rate", "cross_entropy", "entropy", "bits_per_dim", "typicality"],
        list[float],
    ],
    Field(description="Scores of each input, from one draw with seed 0; the last two only if the model has them."),
]


class Gallery(Answer):
    """n inputs that neither fitted nor chose the model, and statistics of the calibration set that they are from."""

    model_config = example(
        inputs=1,
        projection={
            "method": "pca",
            "explained": [0.7, 0.3],
            "coordinates": [[0.81, -1.32]],
            "origin": [0.0, 0.0],
            "axes": [[1.0, 0.0], [0.0, 1.0]],
        },
        embedding={"method": "tsne", "coordinates": [[10.5, -3.25]]},
        labels=[1],
        label_names=["cat", "dog"],
        scores={"free_energy": [11.75], "distortion": [7.5], "rate": [4.25]},
        kl_to_normal=[4.0, 0.25],
        active_units=2,
        histogram={"edges": [10.0, 12.0, 14.0], "counts": [40, 60]},
        learning=[],
        thumbnails={"columns": 1, "width": 2, "height": 2},
    )

    inputs: int = Field(description="n.")
    projection: Projection
    embedding: Embedding | None = Field(description="Null if the gallery was made without scikit-learn.")
    labels: list[int] | None = Field(description="Class of each input; null if the data has no labels.")
    label_names: list[str] | None = Field(description="Name of each class, by label.")
    scores: GalleryScores
    kl_to_normal: list[float] = Field(
        description="Mean KL(Q, N(0, 1)) of each latent dimension over the calibration set, nats."
    )
    active_units: int = Field(description="Number of latent dimensions whose mean has a variance above 0.01.")
    histogram: Histogram
    learning: list[EpochRecord] = Field(description="Learning curves; empty if the training records are unknown.")
    thumbnails: Thumbnails | None = Field(description="Null for models of vectors.")


class GalleryInput(Answer):
    """One input of the gallery, with Q(z|x) and its scores."""

    model_config = example(
        inputs=[[[0.0, 0.25], [0.5, 1.0]]],
        mean=[[0.81, -1.32]],
        variance=[[0.04, 0.09]],
        label=1,
        label_name="dog",
        scores={"free_energy": [11.75], "distortion": [7.5], "rate": [4.25]},
    )

    inputs: list[Any] = Field(description="The input as a request sends it: 1 x height x width (x 3), or 1 x columns.")
    mean: Matrix = Field(description="1 x latent.")
    variance: Matrix = Field(description="1 x latent.")
    label: int | None
    label_name: str | None
    scores: GalleryScores


class Reloaded(Answer):
    """The model that is served after a reload."""

    model_config = example(name="fashion-mnist", digest="5f2c", before="91ab")

    name: str
    digest: str
    before: str = Field(description="Digest of the previous model.")


class Health(Answer):
    """State of the service."""

    model_config = example(status="ready")

    status: Literal["alive", "ready"]


class ProblemPlace(BaseModel):
    place: str = Field(description="Location, as in inputs[3][0][7] or query.samples.")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong, and the remedy.")
    errors: list[ProblemPlace] | None = None
