-- This file creates the tables of the ledger, and explains every column.
-- The status of a row is ok, dropped or failed. Every row with the status dropped or failed has a reason.
-- Two runs of the same command on the same input write the same rows. Only the times in the rows can differ.

-- A row is one input of a curation: a file, a member of an archive, or a folder that cannot be read.
-- The uri of a file is `file://` and the absolute path. The raw bytes of the path are percent-encoded.
-- The uri of a file in a store is its address without secrets. The key of the file is percent-encoded.
-- The uri of a member is the uri of its archive, then `#`, the number of the member, `/` and the encoded name.
-- The first member of an archive has the number 0.
-- For a file that is kept out, the uri is `hmac:` and the HMAC-SHA256 of the original uri under DATASET/secret.key.
CREATE TABLE files (
    uri      VARCHAR PRIMARY KEY,
    photo_id VARCHAR, -- the photo that was last decoded from the file; NULL if the file was never decoded
    bytes    BIGINT,  -- size of the file or the archive member
    mtime_ns BIGINT,  -- time of the last change in nanoseconds since 1970, from 1677 to 2262; a member has its archive's time
    status   VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped', 'failed')),
    reason   VARCHAR,
    ctime_ns BIGINT,  -- time at which the system last saw a change of the file or of its name, in the unit of mtime_ns;
                      -- for a file in a store, the first 63 bits of the sha256 of its ETag or of another version
    sha256      VARCHAR, -- sha256 of the bytes that were decoded; NULL if the file was never decoded
    samples     VARCHAR, -- sha256 of the stored samples, before the orientation and the colour profile were applied
    orientation INTEGER, -- EXIF orientation of the file, 1 to 8
    taken       TIMESTAMP, -- when the photo was taken, by the clock of the camera and without a time zone
    taken_offset INTEGER,  -- minutes by which this clock was ahead of UTC; NULL if the file does not say
    taken_from   VARCHAR,  -- the field with the date: exif_original, xmp_original, xmp_created, iptc_created,
                           -- exif_digitized, xmp_digitized or exif_changed; NULL if the file has no date
    taken_doubt  VARCHAR,  -- why the file itself makes the date doubtful: unset, unreadable, digitized or changed
    camera_model VARCHAR,  -- maker and model of the camera, from EXIF
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

-- A row is one distinct image that could be decoded. Files that differ only in metadata contain the same photo.
-- Notice broken_colour_profile: the colour profile of the photo was ignored.
-- Notice read_at_half_size: the photo has more than 178 megapixels, and was read at half its width and height.
CREATE TABLE photos (
    photo_id VARCHAR PRIMARY KEY, -- sha256 of the bytes of the file from which the photo was read first
    width    INTEGER NOT NULL,    -- pixels, after the EXIF orientation was applied
    height   INTEGER NOT NULL,    -- pixels, after the EXIF orientation was applied
    phash    VARCHAR NOT NULL,    -- 64-bit perceptual hash of the whole picture, as hex digits
    source   VARCHAR,             -- where the photo comes from, according to the sidecar file
    licence  VARCHAR,             -- the licence of the photo, according to the sidecar file
    consent  VARCHAR,             -- the consent that counts: yes, no, withdrawn, or NULL if it is unknown; the
                                  -- stricter of `sidecar_consent` and the newest decision in force about the photo,
                                  -- even if this decision is recorded but not applied yet
    sidecar_consent VARCHAR,      -- yes, no or withdrawn, from the sidecar file; NULL if the sidecar file has no entry
    status   VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped', 'failed')),
    reason   VARCHAR,             -- why the photo was dropped, for example no_face, no_consent or consent_missing
    notice   VARCHAR,             -- NULL, broken_colour_profile or read_at_half_size
    min_eyes FLOAT,               -- least distance between the eyes, in pixels, that the detection looked for
    format   VARCHAR,             -- Pillow's name of the format, followed by CMYK or palette for such pixels
    jpeg_quality INTEGER,         -- 1 to 100, from the quantisation table; NULL if the file is not a JPEG
    camera   BOOLEAN,             -- whether the file names the camera that took the picture
    gray     BOOLEAN,             -- whether the picture has no colours
    border   FLOAT,               -- share of the picture that is a border of nearly one colour, from 0 to 1
    phash256 VARCHAR,             -- 256-bit perceptual hash of the whole picture, as hex digits
    samples  VARCHAR,             -- sha256 of the stored samples; the photo is read from files with these samples
    orientation INTEGER,          -- EXIF orientation of the files from which the photo is read
    decoder  VARCHAR,             -- format of the file, and the versions of the libraries that decoded the samples
    taken        TIMESTAMP,       -- when the photo was taken, as in the table `files`; if several files contain the
                                  -- photo, the earliest date without a doubt
    taken_offset INTEGER,         -- as in the table `files`
    taken_from   VARCHAR,         -- as in the table `files`
    taken_doubt  VARCHAR,         -- NULL if the date can be trusted, or if there is no date; otherwise a doubt of the
                                  -- table `files`, or before_photography, in_future, epoch, clock_reset, same_second or
                                  -- out_of_order (docs/curate.md, Dates)
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

-- A row is one detected face. Left and right mean the sides of the image in which the face is upright.
-- The embedding of a face has unit length.
CREATE TABLE faces (
    face_id         VARCHAR PRIMARY KEY, -- first 32 hex digits of the sha256 of photo_id and rounded box
    photo_id        VARCHAR NOT NULL,
    box             FLOAT[] NOT NULL,    -- x0, y0, x1, y1 in photo pixels
    landmarks5      FLOAT[] NOT NULL,    -- x, y of the left and right eye, nose tip, left and right mouth corner
    landmarks68     FLOAT[],             -- x, y of the 68 iBUG points; NULL if the run did not use --landmarks
    det_score       FLOAT NOT NULL,      -- the detector's score of the face; the scale depends on the detector
    inter_ocular_px FLOAT NOT NULL,      -- distance between the centres of the eyes in photo pixels
    yaw             FLOAT NOT NULL,      -- degrees; positive if the face turns to the right side of the image
    pitch           FLOAT NOT NULL,      -- degrees; positive if the face looks down
    roll            FLOAT NOT NULL,      -- degrees; positive if the face is rotated clockwise in the image
    sharpness       FLOAT NOT NULL,      -- sharpness of the crop; curate/faces/measure.py defines it
    blockiness      FLOAT NOT NULL,      -- strength of JPEG blocks; curate/faces/measure.py defines it
    exposure        FLOAT NOT NULL,      -- mean luma of the face, from 0 to 1
    upsample        FLOAT NOT NULL,      -- scale from the photo to the 512 px crop; above 1 the crop is enlarged
    phash           VARCHAR NOT NULL,    -- 256-bit perceptual hash of the aligned face, as hex digits
    duplicate_of    VARCHAR,             -- id of the face that is used instead of this near-duplicate; NULL otherwise
    status          VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped', 'failed')),
    reason          VARCHAR,
    shard           VARCHAR,             -- sha256 of the file embeddings/<shard>.npy that contains the embedding
    shard_row       INTEGER,             -- number of the embedding's row in the shard
    noise           FLOAT,               -- standard deviation of the noise in the photo's luma, on a scale of 0 to 255
    crop_sha256     VARCHAR,             -- sha256 of the PNG file of the crop; NULL if the face has no crop
    outside         FLOAT,               -- share of the crop's pixels that lie outside the photo, from 0 to 1
    turn            INTEGER,             -- the face is turned clockwise by about 0, 90, 180 or 270 degrees; NULL if unclear
    landmark_error  FLOAT,               -- distance to the landmarks of a second detection, as a share of the distance
                                         -- between the eyes; at most 1; NULL if there was no second detection
    luma_dct        VARCHAR,             -- low frequencies of the aligned face's luma; curate/faces/comparison/luma_dct.py
    detail          FLOAT,               -- strength of fine detail; curate/faces/measure.py defines it
    clipped         FLOAT,               -- share of the face's pixels with a channel of 254 or more, from 0 to 1
    dark            FLOAT,               -- share of the face's pixels with three channels of 16 or less, from 0 to 1
    embedding_norm  FLOAT,               -- length of the embedding as the recognizer returned it; NULL if the lengths of
                                         -- this recognizer's embeddings say nothing about the faces
    embedding_device VARCHAR,            -- device that computed the embedding, as --device names it, for example cpu;
                                         -- NULL without an embedding
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

-- A row is one person in this dataset.
-- A later run groups the faces again. The group that shares the most faces with an identity gets the identity's id.
-- The id of a new identity is an HMAC under DATASET/secret.key.
CREATE TABLE identities (
    identity_id VARCHAR PRIMARY KEY,
    name        VARCHAR,          -- name from a decision, or from a label that is marked as truth
    locked      BOOLEAN NOT NULL, -- whether a decision of kind lock keeps the faces together
    doubtful    BOOLEAN NOT NULL  -- whether the grouping may have joined faces of strangers by chance; if true, the
                                  -- faces are set aside
);

-- A row says that a face belongs to an identity.
CREATE TABLE memberships (
    face_id     VARCHAR PRIMARY KEY,
    identity_id VARCHAR NOT NULL,
    confidence  FLOAT NOT NULL, -- mean cosine to the other faces of the identity; 1 if the identity has one face
    margin      FLOAT NOT NULL, -- confidence minus the mean cosine to the nearest other identity
    source      VARCHAR NOT NULL CHECK (source IN ('label', 'cluster', 'review')),
    worth       FLOAT           -- how much the embedding says about the person: about 0 for an unrecognisable face, about
                                -- 1 for a clear face; NULL if unknown (docs/grouping.md)
);

-- A row is one decision that a user made about faces. A new decision adds a row and changes no older row.
CREATE TABLE decisions (
    decision_id BIGINT PRIMARY KEY, -- number of the decision: 1, 2, ... in the order in which decisions were made
    kind        VARCHAR NOT NULL,   -- merge, split, move, drop, accept, rename, lock, prefer, together, apart, assign,
                                    -- consent or undo
    faces       JSON NOT NULL,      -- lists of faces, or the list `photos` for the kind consent; the list `takes_back`
                                    -- has the older decisions that the decision takes back; docs/curate.md explains
                                    -- the form
    made        TIMESTAMP NOT NULL, -- UTC time of the decision
    name        VARCHAR,            -- the person's name for the kind rename; train, val or test for the kind assign; the
                                    -- user's reason for the kind drop; yes, no or withdrawn for the kind consent
    undoes      BIGINT              -- number of the decision that an undo takes back
);

-- A row is a label that a folder, a CSV file, an imported list or the metadata of a photo gives to a face of the photo.
CREATE TABLE labels (
    photo_id VARCHAR NOT NULL,
    label    VARCHAR NOT NULL,
    truth    BOOLEAN NOT NULL, -- if false, the label is only compared and reported, and does not change the groups
    number   INTEGER NOT NULL, -- number of the label in the photo: 0, 1, ...
    box      FLOAT[],          -- x0, y0, x1, y1 as shares of the photo's width and height; the label belongs to the
                               -- face at this place; NULL: the label belongs to the largest accepted face
    PRIMARY KEY (photo_id, number)
);

-- A row is the entry of an imported list for the largest accepted face of a photo. Every curation applies the entry.
CREATE TABLE list_entries (
    photo_id VARCHAR PRIMARY KEY,
    label    VARCHAR,   -- the person's label, which counts as truth; --labels replaces this label
    split    VARCHAR CHECK (split IN ('train', 'val', 'test')),
    refs     VARCHAR[]  -- photo ids of the references in the order of the list; NULL if the photo is not a target
);

-- A row is one target with its references.
CREATE TABLE pairs (
    target       VARCHAR PRIMARY KEY, -- face id of the target
    refs         VARCHAR[] NOT NULL,  -- ordered face ids of the same person; near-duplicates of the target are excluded
    similarities FLOAT[] NOT NULL,    -- cosine between each reference and the target
    policy       VARCHAR NOT NULL,    -- the value of --pairs, or `list` if the pair comes from an imported list
    split        VARCHAR NOT NULL CHECK (split IN ('train', 'val', 'test')),
    gap_days     INTEGER[]            -- days between the photo of each reference and the photo of the target; an element is
                                      -- NULL if the date of one of the two photos is missing or doubtful
);

-- A row puts one face into a split. The split depends on the identity or on the photo of the face.
-- A row with a reason is a face that is not used.
-- Reason photo_spans_splits: the photo of the face also shows a person of another split.
-- Reason doubtful_person: the grouping may have made the person of the face from faces of strangers.
-- Reason listed_in_another_split: an imported list puts most faces of the person into another split.
CREATE TABLE splits (
    face_id     VARCHAR PRIMARY KEY,
    identity_id VARCHAR NOT NULL,
    split       VARCHAR NOT NULL CHECK (split IN ('train', 'val', 'test')),
    policy      VARCHAR NOT NULL CHECK (policy IN ('identity', 'photos')),
    locked      BOOLEAN NOT NULL, -- true as soon as a frozen set of this split exists
    status      VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped')),
    reason      VARCHAR,
    no_target   VARCHAR,          -- reason of the test filter because of which the face is not a target; NULL otherwise
    CHECK (status = 'ok' OR reason IS NOT NULL)
);

-- A row is one low-quality image of a frozen set.
CREATE TABLE degradations (
    lq_set  VARCHAR NOT NULL, -- name of the set, and of the set's folder under lq/
    face_id VARCHAR NOT NULL,
    preset  VARCHAR NOT NULL,
    seed    BIGINT NOT NULL,  -- seed of the set; seed, preset and face_id determine all random numbers of a face
    size    INTEGER NOT NULL, -- width and height in pixels, to which the 512 px crop is reduced before the degradation
    theta   JSON NOT NULL,    -- all parameters of the degradation, with which the degradation can be repeated
    sha256  VARCHAR NOT NULL, -- sha256 of the PNG file
    PRIMARY KEY (lq_set, face_id)
);

-- A row is one file of a face model that this dataset was made with.
CREATE TABLE models (
    role    VARCHAR NOT NULL CHECK (role IN ('detector', 'recognizer', 'landmarks')),
    file    VARCHAR NOT NULL, -- name of the file
    spec    VARCHAR NOT NULL, -- the value of --faces; if the value was auto, the chosen models
    sha256  VARCHAR NOT NULL, -- sha256 of the file
    licence VARCHAR NOT NULL,
    dim     INTEGER,          -- length of the embedding; NULL if the model is not a recognizer
    PRIMARY KEY (role, file)
);

-- A row is one finished unit of work of a stage.
CREATE TABLE stages (
    stage         VARCHAR NOT NULL,
    unit          VARCHAR NOT NULL,
    config_hash   VARCHAR NOT NULL,   -- sha256 of the settings of the stage
    code_version  VARCHAR NOT NULL,   -- version of Likeness
    tool_versions JSON NOT NULL,      -- versions of the installed packages that can change a result
    detail        JSON,               -- facts about the unit, for example the threshold of the grouping
    started       TIMESTAMP NOT NULL, -- UTC
    finished      TIMESTAMP NOT NULL, -- UTC
    PRIMARY KEY (stage, unit, config_hash)
);

-- A row is one photo or one example face that must not enter the dataset again.
CREATE TABLE kept_out (
    mark       VARCHAR PRIMARY KEY, -- HMAC-SHA256 of a photo's sha256, or of an embedding, under DATASET/secret.key
    kind       VARCHAR NOT NULL CHECK (kind IN ('photo', 'face')),
    reason     VARCHAR NOT NULL CHECK (reason IN ('opted_out', 'purged')),
    made       TIMESTAMP NOT NULL,  -- UTC time at which the row was written
    embedding  FLOAT[],             -- unit-length embedding of an example face; NULL without --remember-face
    recognizer VARCHAR,             -- sha256 of the file of the model that made the embedding
    samples    VARCHAR,             -- HMAC of the sha256 of the photo's stored samples; NULL if only a sha256 is known
    bands      VARCHAR[],           -- HMACs, 64 bits each, of 12 bands of the photo's 256-bit perceptual hash
    places     VARCHAR[],           -- HMACs of the uris of the photo's files, as in the table `files`
    CHECK ((kind = 'face') = (embedding IS NOT NULL)),
    CHECK ((kind = 'face') = (recognizer IS NOT NULL))
);

-- A row is one purge that was finished and proved. A row of this table does not name a person.
CREATE TABLE purges (
    purge_id BIGINT PRIMARY KEY, -- number of the purge: 1, 2, ... in the order of the purges
    made     TIMESTAMP NOT NULL, -- UTC time of the purge
    removed  JSON NOT NULL       -- maps each kind of data to the number of removed items
);

-- A row is one attempt of `likeness iterate` to clean a training target.
-- Reason not_in_train: the person of the face is in another split now.
CREATE TABLE versions (
    iteration         VARCHAR NOT NULL, -- hash of the faces and settings that define the iteration
    round             INTEGER NOT NULL, -- the round whose model made the version; round 0 trains on original crops only
    face_id           VARCHAR NOT NULL,
    defect            VARCHAR NOT NULL, -- why the target was chosen to be cleaned: soft, noisy or blocky
    parent            VARCHAR NOT NULL, -- sha256 of the PNG file of the face's original crop, which was restored
    checkpoint        VARCHAR NOT NULL, -- folder of the checkpoint that restored the crop
    checkpoint_sha256 VARCHAR NOT NULL, -- sha256 of the checkpoint's model.safetensors
    metrics           JSON NOT NULL,    -- sharpness, noise and blockiness of the crop and of the version; identity; content change
    sha256            VARCHAR,          -- sha256 of the PNG file under versions/; NULL if the version was not kept
    status            VARCHAR NOT NULL CHECK (status IN ('ok', 'dropped')),
    reason            VARCHAR,          -- a reason of train/iterate/acceptance.py, or not_in_train
    CHECK (status = 'ok' OR reason IS NOT NULL),
    CHECK ((status = 'ok') = (sha256 IS NOT NULL)),
    PRIMARY KEY (iteration, round, face_id)
);

-- A row is one training image of a round of `likeness iterate`. The image is a target or a reference.
CREATE TABLE training_images (
    iteration VARCHAR NOT NULL,
    round     INTEGER NOT NULL,
    face_id   VARCHAR NOT NULL,
    version   INTEGER, -- the round of the cleaned version that was used; NULL for the original crop
    PRIMARY KEY (iteration, round, face_id)
);
