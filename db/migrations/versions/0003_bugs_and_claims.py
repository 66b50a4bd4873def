"""Claims, what bug rules ask of a run, bugs with their marks, and links."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bugs",
        sa.Column("bug", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("disposition", sa.String(length=20), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("bug", "version", name=op.f("pk_bugs")),
    )
    op.create_table(
        "facts",
        sa.Column("subject", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("answers", sa.String(length=16), nullable=True),
        sa.Column("checkpoint", sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_facts")),
    )
    op.create_index("ix_facts_answers", "facts", ["answers"], unique=False)
    op.create_index("ix_facts_checkpoint", "facts", ["checkpoint"], unique=False)
    op.create_table(
        "histories",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("imported_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_histories")),
    )
    op.create_table(
        "links",
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("target", sa.String(length=32), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "source", "target", name=op.f("pk_links")),
    )
    op.create_index("ix_links_source", "links", ["source"], unique=False)
    op.create_index("ix_links_target", "links", ["target"], unique=False)
    op.create_index("ix_links_kind_target", "links", ["kind", "target"], unique=False)
    op.create_index("ix_links_kind_source", "links", ["kind", "source"], unique=False)
    op.create_table(
        "mark_changes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("bug", sa.String(length=100), nullable=False),
        sa.Column("subject", sa.String(length=32), nullable=False),
        sa.Column("before", sa.String(length=12), nullable=True),
        sa.Column("after", sa.String(length=12), nullable=False),
        sa.Column("effect", sa.String(length=12), nullable=False),
        sa.Column("rule_version", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mark_changes")),
    )
    op.create_index("ix_mark_changes_subject", "mark_changes", ["subject"], unique=False)
    op.create_table(
        "marks",
        sa.Column("bug", sa.String(length=100), nullable=False),
        sa.Column("subject", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("effect", sa.String(length=12), nullable=False),
        sa.Column("disposition", sa.String(length=20), nullable=False),
        sa.Column("rule_version", sa.Integer(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("replacement", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("bug", "subject", name=op.f("pk_marks")),
    )
    op.create_index("ix_marks_subject", "marks", ["subject"], unique=False)
    op.create_table(
        "claims",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("history", sa.String(length=200), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("condition_id", sa.String(length=12), nullable=True),
        sa.Column("recorded_at", sa.Float(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["condition_id"], ["conditions.id"], name=op.f("fk_claims_condition_id_conditions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_claims")),
    )
    op.create_index("ix_claims_history_label", "claims", ["history", "label"], unique=False)
    op.create_index("ix_claims_label", "claims", ["label"], unique=False)
    op.create_table(
        "claim_versions",
        sa.Column("claim_id", sa.String(length=32), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("imported_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["claim_id"], ["claims.id"], name=op.f("fk_claim_versions_claim_id_claims")),
        sa.PrimaryKeyConstraint("claim_id", "version", name=op.f("pk_claim_versions")),
    )
    op.add_column("runs", sa.Column("mark_changes", sa.Integer(), server_default="0", nullable=False))
    op.create_index(op.f("ix_runs_label"), "runs", ["label"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("restore a copy of the registry instead")
