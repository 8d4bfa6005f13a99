-- The tables of the ledger. This file is the one place that explains every column.
-- The status of a row is ok, dropped or failed. Every row that is not ok has a reason.
-- Two runs of the same command on the same input give the same rows, except for the columns that hold times.

-- A row is one file, member of an archive or unreadable folder that was offered.
-- A uri is file:// and the absolute path, percent-encoded from the path's raw bytes.
-- The uri of a member is the uri of its archive, #, its place in the archive from 0, / and its encoded name.
-- The uri of a file that is kept out is hmac: and the HMAC-SHA256 of its uri under DATASET/secret.key.
CREATE TABLE files (
    uri      VARCHAR PRIMARY KEY,
    photo_id VARCHAR, -- the photo that the file holds or held last; NULL if the file was never decoded
    bytes    BIGINT,  -- size of the file or member
    mtime_ns BIGINT,  -- time of the last change, nanoseconds since 1970; a member has the time of its archive
    status   VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped', 'failed')),
    reason   VARCHAR,
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

-- A row is one distinct image that could be decoded.
CREATE TABLE photos (
    photo_id VARCHAR PRIMARY KEY, -- sha256 of the bytes of the file
    width    INTEGER NOT NULL,    -- pixels, after the EXIF orientation was applied
    height   INTEGER NOT NULL,    -- pixels, after the EXIF orientation was applied
    phash    VARCHAR NOT NULL,    -- 64-bit perceptual hash of the whole picture, as hex digits
    source   VARCHAR,             -- where the photo comes from, as the sidecar file states
    licence  VARCHAR,             -- the licence of the photo, as the sidecar file states
    consent  VARCHAR,             -- yes, no or withdrawn, as the sidecar file states; NULL without a statement
    status   VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped', 'failed')),
    reason   VARCHAR,             -- for example no_face, no_consent or consent_missing
    notice   VARCHAR,             -- broken_colour_profile: the profile was ignored; read_at_half_size: over 178 megapixels
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

-- A row is one detected face. Left and right mean the sides of the image.
-- The embedding has unit length.
CREATE TABLE faces (
    face_id         VARCHAR PRIMARY KEY, -- first 32 hex digits of the sha256 of photo_id and the box, rounded to integers
    photo_id        VARCHAR NOT NULL,
    box             FLOAT[] NOT NULL,    -- x0, y0, x1, y1 in photo pixels
    landmarks5      FLOAT[] NOT NULL,    -- x, y of left eye, right eye, nose tip, left and right mouth corner
    landmarks68     FLOAT[],             -- x, y of the 68 iBUG points; NULL unless the run had --landmarks
    det_score       FLOAT NOT NULL,      -- score of the detector, on the detector's own scale
    inter_ocular_px FLOAT NOT NULL,      -- distance between the centres of the eyes, photo pixels
    yaw             FLOAT NOT NULL,      -- degrees, positive if the face turns to the right of the image
    pitch           FLOAT NOT NULL,      -- degrees, positive if the face looks down
    roll            FLOAT NOT NULL,      -- degrees, positive if the face is rotated clockwise in the image
    sharpness       FLOAT NOT NULL,      -- sharpness of the crop, see curate/faces/measure.py
    blockiness      FLOAT NOT NULL,      -- strength of JPEG blocks, see curate/faces/measure.py
    exposure        FLOAT NOT NULL,      -- mean luma of the face, 0 to 1
    upsample        FLOAT NOT NULL,      -- crop pixels per photo pixel in the 512 px crop; above 1 the crop is enlarged
    phash           VARCHAR NOT NULL,    -- 256-bit perceptual hash of the aligned face, as hex digits
    duplicate_of    VARCHAR,             -- the face that is used in place of this near-duplicate
    status          VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped', 'failed')),
    reason          VARCHAR,
    shard           VARCHAR,             -- embeddings/<shard>.npy holds the embedding; the name is the file's sha256
    shard_row       INTEGER,             -- the row of the shard that holds the embedding
    noise           FLOAT,               -- standard deviation of the noise in the photo's pixels, luma 0 to 255
    crop_sha256     VARCHAR,             -- sha256 of the PNG file of the crop; NULL without a crop
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

-- A row is one person in this dataset.
-- A later run gives the id of an identity to the group that shares the most faces with it.
-- The id of a new identity is an HMAC under DATASET/secret.key.
CREATE TABLE identities (
    identity_id VARCHAR PRIMARY KEY,
    name        VARCHAR,          -- name from a decision, or from a label that is truth
    locked      BOOLEAN NOT NULL  -- whether a decision of kind lock keeps the faces together
);

-- A row says that a face belongs to an identity.
CREATE TABLE memberships (
    face_id     VARCHAR PRIMARY KEY,
    identity_id VARCHAR NOT NULL,
    confidence  FLOAT NOT NULL, -- mean cosine to the other faces of the identity; 1 for its only face
    margin      FLOAT NOT NULL, -- confidence minus the mean cosine to the nearest other identity
    source      VARCHAR NOT NULL CHECK (source IN ('label', 'cluster', 'review'))
);

-- A row is one decision of a person. Rows are only added.
CREATE TABLE decisions (
    decision_id BIGINT PRIMARY KEY, -- 1, 2, ... in the order in which the decisions were made
    kind        VARCHAR NOT NULL,   -- merge, split, move, drop, rename, lock or undo
    faces       JSON NOT NULL,      -- lists of the faces, each face by the hash of its photo and its box (docs/curate.md)
    made        TIMESTAMP NOT NULL, -- time of the decision, UTC
    name        VARCHAR,            -- name of the person in a rename
    undoes      BIGINT              -- number of the decision that an undo takes back
);

-- A row is the label that a folder or a CSV file gives to the largest accepted face of a photo.
CREATE TABLE labels (
    photo_id VARCHAR PRIMARY KEY,
    label    VARCHAR NOT NULL,
    truth    BOOLEAN NOT NULL  -- false: the label is a hint, which is compared and reported but forces nothing
);

-- A row is the entry of an imported list for the largest accepted face of a photo. Every run applies the entry.
CREATE TABLE list_entries (
    photo_id VARCHAR PRIMARY KEY,
    label    VARCHAR,   -- the person, as truth; --labels replaces it
    split    VARCHAR CHECK (split IN ('train', 'val', 'test')),
    refs     VARCHAR[]  -- photo ids of the references in the order of the list; NULL if the photo is no target
);

-- A row is one target with its references.
CREATE TABLE pairs (
    target       VARCHAR PRIMARY KEY, -- face id of the target
    refs         VARCHAR[] NOT NULL,  -- face ids of the same person, in order; never a near-duplicate of the target
    similarities FLOAT[] NOT NULL,    -- cosine of each reference to the target
    policy       VARCHAR NOT NULL,    -- the value of --pairs (curate/people/pairs.py), or list for an imported list
    split        VARCHAR NOT NULL CHECK (split IN ('train', 'val', 'test'))
);

-- A row puts one face into a split, by its identity or by its photo.
-- photo_spans_splits: the face is set aside because its photo also shows a person of another split.
-- listed_in_another_split: the face is set aside because a list puts most faces of its person elsewhere.
CREATE TABLE splits (
    face_id     VARCHAR PRIMARY KEY,
    identity_id VARCHAR NOT NULL,
    split       VARCHAR NOT NULL CHECK (split IN ('train', 'val', 'test')),
    policy      VARCHAR NOT NULL CHECK (policy IN ('identity', 'photos')),
    locked      BOOLEAN NOT NULL, -- true as soon as a frozen set of this split exists
    status      VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped')),
    reason      VARCHAR,
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

-- A row is one low-quality image of a frozen set.
CREATE TABLE degradations (
    lq_set  VARCHAR NOT NULL, -- name of the set and of its folder under lq/
    face_id VARCHAR NOT NULL,
    preset  VARCHAR NOT NULL,
    seed    BIGINT NOT NULL,  -- seed of the set; the random numbers of a face follow from seed, preset and face_id
    size    INTEGER NOT NULL, -- pixels; the 512 px crop is reduced to this size before it is degraded
    theta   JSON NOT NULL,    -- all parameters of the degradation, enough to repeat it
    sha256  VARCHAR NOT NULL, -- sha256 of the PNG file
    PRIMARY KEY (lq_set, face_id)
);

-- A row is one file of a face model that made this dataset.
CREATE TABLE models (
    role    VARCHAR NOT NULL CHECK (role IN ('detector', 'recognizer', 'landmarks')),
    file    VARCHAR NOT NULL, -- name of the file
    spec    VARCHAR NOT NULL, -- the value of --faces after auto was resolved
    sha256  VARCHAR NOT NULL, -- sha256 of the file
    licence VARCHAR NOT NULL,
    dim     INTEGER,          -- length of the embedding of a recognizer; NULL for other models
    PRIMARY KEY (role, file)
);

-- A row is one finished unit of work of a stage.
CREATE TABLE stages (
    stage         VARCHAR NOT NULL,
    unit          VARCHAR NOT NULL,
    config_hash   VARCHAR NOT NULL,   -- sha256 of the settings of the stage
    code_version  VARCHAR NOT NULL,   -- version of Likeness
    tool_versions JSON NOT NULL,      -- versions of the packages that can change a result
    detail        JSON,               -- figures of the unit, for example the threshold and histogram of the grouping
    started       TIMESTAMP NOT NULL, -- UTC
    finished      TIMESTAMP NOT NULL, -- UTC
    PRIMARY KEY (stage, unit, config_hash)
);

-- A row is one photo or one example face that must not enter the dataset again.
CREATE TABLE kept_out (
    mark       VARCHAR PRIMARY KEY, -- HMAC-SHA256 under DATASET/secret.key of a photo's sha256 or an embedding's bytes
    kind       VARCHAR NOT NULL CHECK (kind IN ('photo', 'face')),
    reason     VARCHAR NOT NULL CHECK (reason IN ('opted_out', 'purged')),
    made       TIMESTAMP NOT NULL,  -- time at which the row was made, UTC
    embedding  FLOAT[],             -- unit embedding of an example face; only if --remember-face asked for it
    recognizer VARCHAR,             -- sha256 of the model that made the embedding
    CHECK ((kind = 'face') = (embedding IS NOT NULL)),
    CHECK ((kind = 'face') = (recognizer IS NOT NULL))
);

-- A row is one purge that was finished and proved. A purge row names no person.
CREATE TABLE purges (
    purge_id BIGINT PRIMARY KEY, -- 1, 2, ... in the order of the purges
    made     TIMESTAMP NOT NULL, -- time of the purge, UTC
    removed  JSON NOT NULL       -- kind of data -> number of items removed
);

-- A row is one attempt of `likeness iterate` to clean a training target.
CREATE TABLE versions (
    iteration         VARCHAR NOT NULL, -- hash of everything that defines an iteration: faces, recipe, seed, length, bounds
    round             INTEGER NOT NULL, -- the round whose restorer made the version; round 0 is trained on originals only
    face_id           VARCHAR NOT NULL,
    defect            VARCHAR NOT NULL, -- why the target was chosen: soft, noisy or blocky
    parent            VARCHAR NOT NULL, -- sha256 of the PNG that was restored, which is the face's original crop
    checkpoint        VARCHAR NOT NULL, -- folder of the restorer
    checkpoint_sha256 VARCHAR NOT NULL, -- sha256 of the restorer's model.safetensors
    metrics           JSON NOT NULL,    -- sharpness, noise and blockiness before and after; identity; change of content
    sha256            VARCHAR,          -- sha256 of its PNG file under versions/; NULL if the version was not kept
    status            VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped')),
    reason            VARCHAR,          -- see train/iterate/acceptance.py; not_in_train: the person is in another split now
    CHECK (status = 'ok' OR reason IS NOT NULL),
    CHECK ((status = 'ok') = (sha256 IS NOT NULL)),
    PRIMARY KEY (iteration, round, face_id)
);

-- A row is one training image of a round of `likeness iterate`, as a target or as a reference.
CREATE TABLE training_images (
    iteration VARCHAR NOT NULL,
    round     INTEGER NOT NULL,
    face_id   VARCHAR NOT NULL,
    version   INTEGER, -- the round of the cleaned version in `versions`; NULL for the original crop
    PRIMARY KEY (iteration, round, face_id)
);
