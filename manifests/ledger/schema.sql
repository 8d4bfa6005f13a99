-- The ledger's tables: the one place that says what a column means.
-- `status` is ok, dropped or failed; every row that is not ok has a reason. Clocks are the only columns that differ
-- between two runs of the same command on the same input.

CREATE TABLE files (                    -- a row is one file (or unreadable folder, or member of an archive) that was offered
    uri         VARCHAR PRIMARY KEY,    -- file:// and the absolute path, percent-encoded from its raw bytes; of a
                                        -- member, its archive's and #<place from 0>/<name>, encoded likewise; of what
                                        -- is kept out hmac: and the HMAC-SHA256 of that, under DATASET/secret.key
    photo_id    VARCHAR,                -- the photo it holds or last held; NULL where it never could be decoded
    bytes       BIGINT,                 -- size of the file, or of the member
    mtime_ns    BIGINT,                 -- modification time, nanoseconds since 1970; of a member, its archive's
    status      VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped', 'failed')),
    reason      VARCHAR,
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

CREATE TABLE photos (                   -- a row is one distinct decodable image
    photo_id    VARCHAR PRIMARY KEY,    -- sha256 of the file's bytes
    width       INTEGER NOT NULL,       -- pixels, after EXIF orientation
    height      INTEGER NOT NULL,
    phash       VARCHAR NOT NULL,       -- 64-bit perceptual hash of the whole picture, hex
    source      VARCHAR,                -- where it came from, as its owner tells us
    licence     VARCHAR,
    consent     VARCHAR,                -- yes, no or withdrawn, as a sidecar told; NULL where nobody said
    status      VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped', 'failed')),
    reason      VARCHAR,                -- no_face where nothing was detected; no_consent, consent_missing: nothing was looked for
    notice      VARCHAR,                -- broken_colour_profile: the profile was ignored; read_at_half_size: more than 178 megapixels
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

CREATE TABLE faces (                    -- a row is one detected face
    face_id         VARCHAR PRIMARY KEY, -- sha256 of photo_id and the box rounded to integers, first 32 hex digits
    photo_id        VARCHAR NOT NULL,
    box             FLOAT[] NOT NULL,   -- x0, y0, x1, y1 in photo pixels
    landmarks5      FLOAT[] NOT NULL,   -- x, y of left eye, right eye, nose tip, left and right mouth corner (image left first)
    landmarks68     FLOAT[],            -- x, y of the 68 iBUG points, where they were asked for
    det_score       FLOAT NOT NULL,     -- the detector's own scale
    inter_ocular_px FLOAT NOT NULL,     -- distance between the eye centres, photo pixels
    yaw             FLOAT NOT NULL,     -- degrees, positive when the face turns to the image's right
    pitch           FLOAT NOT NULL,     -- degrees, positive looking down
    roll            FLOAT NOT NULL,     -- degrees, positive clockwise in the image
    sharpness       FLOAT NOT NULL,     -- curate/faces/measure.py
    blockiness      FLOAT NOT NULL,     -- curate/faces/measure.py
    exposure        FLOAT NOT NULL,     -- mean luma of the face, 0..1
    upsample        FLOAT NOT NULL,     -- crop pixels per photo pixel in the 512 px crop; above 1 the crop was enlarged
    phash           VARCHAR NOT NULL,   -- 256-bit perceptual hash of the aligned face, hex
    duplicate_of    VARCHAR,            -- the face that stands for this one where it is the same picture again
    status          VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped', 'failed')),
    reason          VARCHAR,
    shard           VARCHAR,            -- embeddings/<shard>.npy holds its unit embedding; the file's sha256 is its name
    shard_row       INTEGER,            -- in this row
    noise           FLOAT,              -- standard deviation in the photo's pixels, luma 0..255; NULL where never measured
    crop_sha256     VARCHAR,            -- of the crop's PNG file; NULL where none was written
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

CREATE TABLE identities (               -- a row is one person in this dataset
    identity_id VARCHAR PRIMARY KEY,    -- stable across re-runs by maximum overlap; a new one is an HMAC under DATASET/secret.key
    name        VARCHAR,                -- given by a person (a decision, or a label that is truth), never guessed
    locked      BOOLEAN NOT NULL        -- whether a lock holds its faces
);

CREATE TABLE memberships (              -- a row says that a face belongs to an identity
    face_id     VARCHAR PRIMARY KEY,
    identity_id VARCHAR NOT NULL,
    confidence  FLOAT NOT NULL,         -- mean cosine to the identity's other faces; 1 for a face that stands alone
    margin      FLOAT NOT NULL,         -- confidence minus the mean cosine to the nearest other identity
    source      VARCHAR NOT NULL CHECK (source IN ('label', 'cluster', 'review'))
);

CREATE TABLE decisions (                -- a row is one human act; append-only
    decision_id BIGINT PRIMARY KEY,     -- 1, 2, ... in the order they were made
    kind        VARCHAR NOT NULL,       -- merge, split, move, drop, rename, lock, undo
    faces       JSON NOT NULL,          -- photo hash and box of every face it names, by the part it plays (docs/curate.md)
    made        TIMESTAMP NOT NULL,
    name        VARCHAR,                -- rename: the person's name
    undoes      BIGINT                  -- undo: the decision that is taken back
);

CREATE TABLE labels (                   -- a row is what a folder or a CSV says of a photo's largest accepted face
    photo_id    VARCHAR PRIMARY KEY,
    label       VARCHAR NOT NULL,
    truth       BOOLEAN NOT NULL        -- false: a hint, compared and reported, forcing nothing
);

CREATE TABLE list_entries (             -- a row is what an imported list says of a photo's largest accepted face; holds on every run
    photo_id    VARCHAR PRIMARY KEY,
    label       VARCHAR,                -- who it is, as truth, unless --labels says something else
    split       VARCHAR CHECK (split IN ('train', 'val', 'test')),
    refs        VARCHAR[]               -- photo_ids of its references in the list's order; NULL where it is no target
);

CREATE TABLE pairs (                    -- a row is one target with its ordered references
    target       VARCHAR PRIMARY KEY,   -- face_id
    refs         VARCHAR[] NOT NULL,    -- face_ids of the same person in the policy's order; never the target nor its near-duplicates
    similarities FLOAT[] NOT NULL,      -- cosine of each reference to the target
    policy       VARCHAR NOT NULL,      -- what --pairs was told; curate/people/pairs.py says what each means; list: by an imported list
    split        VARCHAR NOT NULL CHECK (split IN ('train', 'val', 'test'))
);

CREATE TABLE splits (                   -- a row puts one face into a split, through its identity or its photo
    face_id     VARCHAR PRIMARY KEY,
    identity_id VARCHAR NOT NULL,
    split       VARCHAR NOT NULL CHECK (split IN ('train', 'val', 'test')),
    policy      VARCHAR NOT NULL CHECK (policy IN ('identity', 'photos')),
    locked      BOOLEAN NOT NULL,       -- true once a frozen set of this split exists
    status      VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped')),
    reason      VARCHAR,                -- photo_spans_splits: set aside, its photo also shows a person of another split;
                                        -- listed_in_another_split: set aside, an imported list has most of its person elsewhere
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

CREATE TABLE degradations (             -- a row is one frozen low-quality image
    lq_set      VARCHAR NOT NULL,       -- folder name under lq/
    face_id     VARCHAR NOT NULL,
    preset      VARCHAR NOT NULL,
    seed        BIGINT NOT NULL,        -- the set's seed; the face's own draw is keyed by (seed, preset, face_id)
    size        INTEGER NOT NULL,       -- pixels; the 512 crop is area-resized to this before it is degraded
    theta       JSON NOT NULL,          -- everything the degradation needs to be replayed
    sha256      VARCHAR NOT NULL,       -- of the PNG file
    PRIMARY KEY (lq_set, face_id)
);

CREATE TABLE models (                   -- a row is one file of a face model that this dataset depends on
    role        VARCHAR NOT NULL CHECK (role IN ('detector', 'recognizer', 'landmarks')),
    file        VARCHAR NOT NULL,       -- file name
    spec        VARCHAR NOT NULL,       -- what --faces resolved to
    sha256      VARCHAR NOT NULL,
    licence     VARCHAR NOT NULL,
    dim         INTEGER,                -- of the embedding, for a recognizer
    PRIMARY KEY (role, file)
);

CREATE TABLE stages (                   -- a row is one finished unit of work
    stage         VARCHAR NOT NULL,
    unit          VARCHAR NOT NULL,
    config_hash   VARCHAR NOT NULL,     -- sha256 of what the stage was told
    code_version  VARCHAR NOT NULL,
    tool_versions JSON NOT NULL,
    detail        JSON,                 -- figures worth keeping: the grouping's threshold and histogram, for one
    started       TIMESTAMP NOT NULL,
    finished      TIMESTAMP NOT NULL,
    PRIMARY KEY (stage, unit, config_hash)
);

CREATE TABLE kept_out (                 -- a row is one photo or one example face that must not come in
    mark       VARCHAR PRIMARY KEY,     -- HMAC-SHA256 under DATASET/secret.key: of a photo's sha256, or of an embedding's bytes
    kind       VARCHAR NOT NULL CHECK (kind IN ('photo', 'face')),
    reason     VARCHAR NOT NULL CHECK (reason IN ('opted_out', 'purged')),
    made       TIMESTAMP NOT NULL,
    embedding  FLOAT[],                 -- of an example face, unit length; only where --remember-face asked for it
    recognizer VARCHAR,                 -- sha256 of the model whose embedding it is
    CHECK ((kind = 'face') = (embedding IS NOT NULL)),
    CHECK ((kind = 'face') = (recognizer IS NOT NULL))
);

CREATE TABLE purges (                   -- a row is one purge that was finished and proved; it names nobody
    purge_id BIGINT PRIMARY KEY,        -- 1, 2, ... in the order they were made
    made     TIMESTAMP NOT NULL,
    removed  JSON NOT NULL              -- what -> how many of it
);

CREATE TABLE versions (                 -- a row is one attempt of `likeness iterate` to clean a training target
    iteration   VARCHAR NOT NULL,       -- hash of all that decides an iteration: faces, recipe, seed, length, bounds
    round       INTEGER NOT NULL,       -- whose restorer made it; round 0 is trained on originals alone
    face_id     VARCHAR NOT NULL,
    defect      VARCHAR NOT NULL,       -- what the target was chosen for: soft, noisy, blocky
    parent      VARCHAR NOT NULL,       -- sha256 of the PNG it was restored from, the face's original crop
    checkpoint  VARCHAR NOT NULL,       -- the restorer's folder
    checkpoint_sha256 VARCHAR NOT NULL, -- of its model.safetensors
    metrics     JSON NOT NULL,          -- before and after: sharpness, noise, blockiness; identity and change of content
    sha256      VARCHAR,                -- of versions/<iteration>/<round>/<ab>/<face_id>.png; NULL where it was not kept
    status      VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped')),
    reason      VARCHAR,                -- train/iterate/acceptance.py; not_in_train: its person has since come into another split
    CHECK (status = 'ok' OR reason IS NOT NULL),
    CHECK ((status = 'ok') = (sha256 IS NOT NULL)),
    PRIMARY KEY (iteration, round, face_id)
);

CREATE TABLE training_images (          -- a row says which version of a face a round of `likeness iterate` was trained on
    iteration   VARCHAR NOT NULL,
    round       INTEGER NOT NULL,
    face_id     VARCHAR NOT NULL,       -- every training image of the round, as a target or as a reference
    version     INTEGER,                -- the round in `versions` whose restorer made it; NULL: the original
    PRIMARY KEY (iteration, round, face_id)
);
