"""Every key of the configuration, typed and closed; Hydra composes the YAML files of ``conf/`` against it."""

from dataclasses import dataclass, field
from typing import Any

from recsys.config.data import MISSING, DataConfig
from recsys.config.touchpoints import TouchpointsConfig

METRICS = ("ndcg", "recall", "hit_rate", "mrr")
SLICES = ("warm", "cold", "repeat", "new", "head", "torso", "tail", "cold_items", "cold_items_full")
BASELINES = (
    "popular",
    "recent_popular",
    "personal_frequency",
    "tifu_knn",
    "up_cf",
    "item_knn",
    "als",
    "ease",
    "content_knn",
)
VARIANTS = ("content_only", "id_only")
RANKERS = ("wide_only", "deep_only", "lightgbm")
INDEXES = ("ivf", "hnsw", "flat")
MODEL_FORMS = ("torchscript", "torch.export", "onnx")
REFIT_WINDOWS = ("train_val", "all")
HOLDOUT = "holdout"
VALIDATIONS = (HOLDOUT, "expanding", "rolling", "kfold")
CANDIDATE_SOURCES = ("history", "nearest", "near_history", "linked", "popular", "popular_in_group")
RANKING_LOSSES = ("bce", "listwise", "lambda_rank")
WIDE_OPTIMIZERS = ("ftrl", "adagrad")
DEEP_OPTIMIZERS = ("adamw", "adagrad")
RANKER_NORMS = ("layer", "batch", "none")
NUMERIC_FORMS = ("quantile", "normal", "piecewise", "log")
SEGMENTS = ("rfm", "kmeans", "ward", "complete", "demographic", "intent")
SEGMENTS_AS_OF = ("train", "val", "test")
CALIBRATIONS = ("isotonic", "platt", "temperature", "none")
LAST = "last"
"""The value of ``ckpt_path`` that means: go on from what is there, if anything is."""


@dataclass
class ModelConfig:
    """The two-tower retriever."""

    width: int = 64  # D, of the taste vectors: what generalises
    code_width: int = 192  # C, of the item codes: what remembers; more width, less noise
    hidden: int = 128  # width of the hidden layer of both towers
    history: int = 512  # L, the last interactions that the user tower reads
    heads: int = 4  # attention heads over the history
    dropout: float = 0.1  # share of the hidden units of both towers set to zero in training
    id_dropout: float = 0.2  # share of item ids hidden in training, so that attributes carry the unseen
    user_id_dropout: float = 0.5  # the same for user ids
    history_dropout: float = 0.3  # share of events hidden from the taste part in training
    context_dropout: float = 0.5  # share of moments whose hour, store ... are hidden in training: batch jobs have none
    factor_width: int = 256  # K, of the item factors that a history is folded into; 0 leaves them out
    factor_weight: float = 1.5  # standard deviation of what they add to logits of popular items; more finds more new
    factor_confidence: float = 0.6  # of an event of today, against 1 for every item without event
    factor_decay: float = 0.5  # power of the age in months that it falls with
    factor_regularization: float = 10.0  # weight of the squared norms in their least squares
    use_ids: bool = True  # false: content-only variant
    use_content: bool = True  # false: id-only variant
    temperature: float = 0.2  # where the learnable temperature starts
    temperature_bounds: list[float] = field(default_factory=lambda: [0.02, 1.0])  # lowest and highest it may become


@dataclass
class TrainingConfig:
    """How the retriever is fitted."""

    batch_moments: int = 512  # B, moments in a batch
    epoch_batches: int = 100  # of an epoch, at least: few moments make batches smaller, down to a quarter
    moments_per_block: int = 4  # consecutive moments of a user in a batch: more is faster, fewer mix more users
    negatives: int = 2048  # uniform negatives of a batch, beside the in-batch ones
    max_epochs: int = 2  # at most; validation chooses how many
    patience: int = 1  # epochs without a better objective before it stops
    learning_rate: float = 1e-3  # of the dense parameters (AdamW)
    embedding_learning_rate: float = 0.05  # of the embedding tables (row-wise Adagrad)
    weight_decay: float = 1e-4  # of the dense parameters
    warm_rate: float = 0.5  # of both learning rates, in a fit that starts from init_from
    checkpoint_minutes: float = 5.0  # between checkpoints inside an epoch, of the ranker too; 0: after every batch
    ledger: bool = False  # true: checkpoints/.../ledger.RANK.csv says which samples each step took


@dataclass
class CandidatesConfig:
    """What the ranker gets to order: the union of several small sources."""

    limit: int = 500  # candidates of a user, at most
    sizes: dict[str, int] = field(  # source -> items that it names; 0: none
        default_factory=lambda: {"history": 310, "nearest": 500, "linked": 100, "popular": 200}
    )
    shares: dict[str, float] = field(  # source -> share of the places; what one leaves free the others get
        default_factory=lambda: {"history": 62.0, "nearest": 30.0, "linked": 4.0, "popular": 4.0}
    )
    group: str | None = None  # user attribute or context column of the source popular_in_group


@dataclass
class RankerTrainingConfig:
    """How the ranker is fitted: on snapshots inside the training window, each labelled by what followed it."""

    snapshots: int = 3  # cuts, the last of them one horizon before the end of the training window
    stride_days: float | None = None  # between cuts; null: half of the horizon
    horizon_days: float | None = None  # null: as long as validation lasts, up to 0.4 of the training window
    max_users: int = 5000  # of a snapshot; bounds memory at about max_users x limit x 500 bytes
    negatives: float = 0.2  # share of the candidates without label that is kept; weights make up for the others
    loss: str = "listwise"  # bce | listwise | lambda_rank
    bce_weight: float = 40.0  # of the cross entropy beside listwise or lambda_rank: logits keep a level by it
    batch_groups: int = 32  # users at a cut in a batch
    epoch_batches: int = 100  # of an epoch, at least: few users make batches smaller, down to a quarter
    max_epochs: int = 2  # over which rates fall: a fit that validation stops early has not come to rest
    patience: int = 1  # epochs without a better objective before it stops
    learning_rate: float = 1e-3  # of the deep part
    embedding_learning_rate: float = 3e-3  # of its embedding tables (row-wise Adagrad)
    wide_learning_rate: float = 5e-4  # of the wide part
    deep_optimizer: str = "adamw"  # adamw | adagrad
    wide_optimizer: str = "ftrl"  # ftrl | adagrad
    wide_l1: float = 0.0  # of FTRL: weights leave 0 only once their gradients have summed up to more
    weight_decay: float = 1e-4  # of AdamW


@dataclass
class RankerConfig:
    """The Wide & Deep ranker of the second stage."""

    enabled: bool = True  # false: retrieval alone
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    training: RankerTrainingConfig = field(default_factory=RankerTrainingConfig)
    groups: list[str] | None = None  # item attributes by which a user's rhythm is measured; null: inferred
    sessions: bool = False  # features of sessions, engagement and open carts: data.sessions
    tasks: list[str] = field(default_factory=list)  # event types learned beside the relevant ones, such as click, cart
    use_wide: bool = True  # false: deep only
    use_deep: bool = True  # false: wide only
    trees: bool = True  # boosted trees over the numbers: their scores are added to the logits at half their spread
    crosses: list[list[str]] | None = None  # of categorical features, memorised by the wide part; null: inferred
    cross_buckets: int = 2**18  # weights that the combinations of a cross share
    width: int = 8  # of an embedding
    hidden: list[int] = field(default_factory=lambda: [256, 128])  # widths of the deep part's hidden layers
    dropout: float = 0.2  # share of their units set to zero in training
    id_dropout: float = 0.3  # share of ids hidden from the deep part in training
    norm: str = "layer"  # layer | batch | none
    knots: int = 8  # of a number, at most: intervals of its piecewise linear forms, and bins of the wide part
    forms: list[str] = field(default_factory=lambda: ["piecewise", "log"])  # what numbers look like to the deep part
    attention: int = 0  # width of the attention of the candidate over the history; 0: none
    history: int = 64  # L, the last items of a user that attention reads, each by its last basket
    start_from_towers: bool = False  # true: embeddings of users, items and attributes start from the first retriever's
    calibration: str = "platt"  # platt | isotonic | temperature | none; isotonic has steps, so equal probabilities


@dataclass
class SegmentsConfig:
    """Groups of users by what they did before a cut, and who they are."""

    kinds: list[str] = field(default_factory=lambda: list(SEGMENTS))  # what `recsys segment` makes
    features: list[str] = field(default_factory=list)  # kinds that towers and ranker read as segment_KIND of the user
    slices: list[str] = field(default_factory=list)  # kinds by which the test window is also measured
    as_of: str = "test"  # train | val | test: the users it writes are as of the end of this window
    ks: list[int] = field(default_factory=lambda: list(range(3, 11)))  # numbers of clusters to choose from
    seeds: int = 5  # fits of K-Means for each, to see whether they agree
    min_stability: float = 0.8  # adjusted Rand index of the seeds; numbers of clusters below it are passed over
    min_share: float = 0.02  # of the users in a cluster or demographic group, at least
    sample: int = 5000  # users that clusters are found in; the others get the nearest one
    demographics: list[str] | None = None  # user attributes; null: the first of 2 to 20 values
    cart_types: list[str] = field(default_factory=lambda: ["cart", "add_to_cart", "addtocart"])  # event types
    recent_days: float = 7.0  # how far back an event tells what a user is about to do


@dataclass
class ObjectiveConfig:
    """The one quantity that choices are made by; a validation metric."""

    metric: str = "val/ndcg_at_20"  # val/METRIC_at_K or val/SLICE/METRIC_at_K, with K one of evaluation.ks
    mode: str = "max"  # more is better of all of them, so nothing else is taken

    @property
    def k(self) -> int:
        """The cut-off of the metric."""
        return int(self.metric.rpartition("_")[2])


@dataclass
class EvaluationConfig:
    """What the table shows."""

    ks: list[int] = field(default_factory=lambda: [10, 20, 50, 100])  # cut-offs K: the first K places count
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))  # names of BASELINES above
    variants: list[str] = field(default_factory=list)  # content_only, id_only: extra two-tower rows
    rankers: list[str] = field(  # parts of the ranker by themselves, on the same candidates; lightgbm: its trees
        default_factory=lambda: ["wide_only", "deep_only", "lightgbm"]
    )
    max_users: int | None = 20_000  # of a window who are asked about, drawn at random where there are more; null: all
    importance: int = 0  # users whose features are shuffled, to see what the ranker reads; 0: none
    cold_users: int = 500  # users of the window asked about as strangers, with clicks, attributes, nothing; 0: none
    bootstrap: int = 1000  # resamples of the paired intervals
    chunk_users: int = 64  # users scored at a time; bounds memory at chunk x items x 4 bytes


@dataclass
class BundleConfig:
    """What the serving team receives."""

    index: str = "ivf"  # ivf | hnsw | flat
    min_index_recall: float = 0.99  # of the index against exact search; below it the export fails
    refit_on: str = "train_val"  # train_val | all: the window that the served model is fitted on
    forms: str = "onnx"  # torchscript | torch.export | onnx: of the models; each brings those before it along


@dataclass
class TrackingConfig:
    """MLflow. A null URI takes MLflow's own embedded default store."""

    enabled: bool = True  # false: nothing is logged, and no model registered
    uri: str | None = None  # of the tracking server
    allow_offline: bool = False  # true: a run begins though the server is away; `recsys sync` sends it later
    experiment: str = "recsys"  # MLflow's, which the run belongs to
    run_name: str | None = None  # null: MLflow makes one up
    model_name: str = "recsys-${data.name}"  # that the bundle is registered as; no '/' or ':' in it
    tags: dict[str, str] = field(default_factory=dict)  # of the run, name -> value


@dataclass
class Config:
    """The configuration of ``train``, and of the other verbs that read the data."""

    data: DataConfig = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    ranker: RankerConfig = field(default_factory=RankerConfig)
    segments: SegmentsConfig = field(default_factory=SegmentsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    validation: str = "holdout"  # holdout | expanding | rolling | kfold: what choices are made on; data/folds.py
    folds: int = 3  # of validation, but for holdout
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    bundle: BundleConfig = field(default_factory=BundleConfig)
    touchpoints: TouchpointsConfig = field(default_factory=TouchpointsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    trainer: dict[str, Any] = field(default_factory=dict)  # pytorch_lightning.Trainer, by _target_
    callbacks: dict[str, Any] = field(default_factory=dict)  # extra Lightning callbacks, by _target_
    tags: list[str] = field(default_factory=list)  # words to find the run by; each becomes an MLflow tag
    seed: int = 42  # of everything that is drawn by chance, from 0 to 2**32 - 1
    ckpt_path: str | None = None  # last: go on where the run in hydra.run.dir stopped; FILE: of the first fit alone
    init_from: str | None = None  # bundle that the retriever starts from: FOLDER, models:/NAME/VERSION, runs:/ID/bundle
    run_dir: str = "${hydra:runtime.output_dir}"  # everything a run writes


@dataclass
class PrepareConfig(Config):
    """``prepare``: tables in, a prepared data set and a report out."""

    partition: str | None = None  # split | number from 0 | merge: this step alone, of data.partitions; null: all


@dataclass
class EvaluateConfig(Config):
    """``evaluate``: a bundle beside the baselines on the test window."""

    bundle_uri: str = MISSING  # folder, models:/NAME/VERSION or runs:/ID/bundle


@dataclass
class TouchpointsEvaluationConfig(EvaluateConfig):
    """``touchpoints``: each touchpoint of a bundle on events of its kind."""

    from_bundle: bool = True  # false: the touchpoints of this configuration in place of the bundle's
    questions: int = 500  # of a touchpoint, at most; each of another user
    days: float = 14.0  # after a purchase in which what follows it counts


@dataclass
class AuditConfig(Config):
    """``audit``: what of the data would leak, and what other splits would have claimed."""

    item_times: dict[str, str] = field(default_factory=dict)  # attribute -> column with the time since it is known
    user_times: dict[str, str] = field(default_factory=dict)  # the same for users
    max_auc: float = 0.99  # of a single feature against what follows a cut; above it is a leak
    max_users: int = 1000  # whose features are computed, and who are asked under each split


@dataclass
class RecommendConfig:
    """``recommend``: top-k for users, from a bundle alone."""

    bundle: str = MISSING  # folder, models:/NAME/VERSION or runs:/ID/bundle
    output: str = "recs.parquet"  # a file; without .parquet a folder of parts, which goes on where it stopped
    users_a_part: int = 50_000  # users in a part of such a folder
    as_of: str | None = None  # ISO time of all requests, at or after the bundle's cut; null: the cut, or the last event
    events: str | None = None  # file of user_id, item_id, timestamp: what happened since the cut
    k: int = 20  # items of an answer
    users: str | None = None  # null: all; a comma-separated list, or a file with a user_id column
    exclude_seen: bool = False  # true: leave out what the user has had
    batch_size: int = 256  # users answered at a time
    tracking_uri: str | None = None  # where models:/ and runs:/ are looked up; null: MLflow's default store


@dataclass
class SyncConfig:
    """``sync``: what runs could not send goes to the tracking server."""

    runs: list[str] = field(default_factory=lambda: ["runs"])  # run folders, or folders of them
    tracking_uri: str | None = None  # null: the server that each run began with


@dataclass
class ExplainConfig:
    """``explain``: why the ranker of a bundle puts an item where it does for a user."""

    bundle: str = MISSING  # folder, models:/NAME/VERSION or runs:/ID/bundle
    user: Any = MISSING  # id; one that the bundle does not know is a stranger
    item: Any = MISSING  # id
    top: int = 20  # lines that are shown
    tracking_uri: str | None = None  # where models:/ and runs:/ are looked up; null: MLflow's default store
