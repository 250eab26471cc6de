"""The parameters and answers of the gallery, as those of `app.api.schemas`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.api.schemas import Answer, Format, Matrix, Query, example


class GalleryQuery(Query):
    format: Annotated[
        Literal["json", "png"] | None,
        Field(description="json, or png for the thumbnails; overrules the Accept header."),
    ] = None


class GalleryInputQuery(Query):
    index: Annotated[int, Field(ge=0, description="Which of the gallery's inputs, from 0 on.")] = 0
    format: Format = None


class Projection(Answer):
    """A plane for the means of Q: coordinates = (mean - origin) @ transposed axes."""

    method: Literal["pca"]
    explained: Annotated[list[float], Field(description="The share of variance that each axis holds.")]
    coordinates: Annotated[Matrix, Field(description="Of each input, n x 2.")]
    origin: Annotated[list[float], Field(description="The mean of the means.")]
    axes: Annotated[Matrix, Field(description="2 x latent, orthonormal.")]


class Histogram(Answer):
    """Free energies of all inputs that were set aside, nats."""

    edges: Annotated[list[float], Field(description="Of the bins: one more than counts.")]
    counts: list[int]


class Epoch(Answer):
    """One epoch of the training; scores in nats per held-out sample."""

    epoch: int
    free_energy: float
    distortion: float
    rate: float
    bits_per_dim: float | None
    train_free_energy: Annotated[
        float, Field(description="Mean over the epoch's batches, at the weights of their time.")
    ]
    learning_rate: float
    seconds: float
    samples_per_second: float


class Thumbnails(Answer):
    """How the picture of format=png is divided: row by row, `columns` in a row, each of these pixels."""

    columns: int
    width: int
    height: int


GalleryScores = Annotated[
    dict[
        Literal["free_energy", "distortion", "rate", "cross_entropy", "entropy", "bits_per_dim", "typicality"],
        list[float],
    ],
    Field(description="Of each input, from one draw with seed 0; the last two where the model has them."),
]


class Gallery(Answer):
    """n inputs that neither fitted nor chose the model, and what is known of all that they were taken from."""

    model_config = example(
        inputs=1,
        projection={
            "method": "pca",
            "explained": [0.7, 0.3],
            "coordinates": [[0.81, -1.32]],
            "origin": [0.0, 0.0],
            "axes": [[1.0, 0.0], [0.0, 1.0]],
        },
        labels=[1],
        label_names=["cat", "dog"],
        scores={"free_energy": [11.75], "distortion": [7.5], "rate": [4.25]},
        rate_per_dimension=[4.0, 0.25],
        active_units=2,
        histogram={"edges": [10.0, 12.0, 14.0], "counts": [40, 60]},
        learning=[],
        thumbnails={"columns": 1, "width": 2, "height": 2},
    )

    inputs: Annotated[int, Field(description="n.")]
    projection: Projection
    labels: Annotated[list[int] | None, Field(description="The class of each input, where the data has them.")]
    label_names: Annotated[list[str] | None, Field(description="What the classes are called, by label.")]
    scores: GalleryScores
    rate_per_dimension: Annotated[list[float], Field(description="Of the latent; nats, mean over all set aside.")]
    active_units: Annotated[int, Field(description="Dimensions of the latent whose mean varies by more than 0.01.")]
    histogram: Histogram
    learning: Annotated[list[Epoch], Field(description="Empty where the records of the training are not known.")]
    thumbnails: Annotated[Thumbnails | None, Field(description="Null for models of vectors.")]


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

    inputs: Annotated[
        list[Any], Field(description="As a request would send it: 1 x height x width (x 3), or 1 x columns.")
    ]
    mean: Annotated[Matrix, Field(description="1 x latent.")]
    variance: Annotated[Matrix, Field(description="1 x latent.")]
    label: int | None
    label_name: str | None
    scores: GalleryScores
