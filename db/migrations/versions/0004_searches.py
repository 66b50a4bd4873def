"""What searches look at, and wishes that a run be ended."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "search_arms",
        sa.Column("sweep_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=12), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("condition_id", sa.String(length=12), nullable=False),
        sa.Column("point", sa.JSON(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["condition_id"], ["conditions.id"], name=op.f("fk_search_arms_condition_id_conditions")
        ),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name=op.f("fk_search_arms_sweep_id_sweeps")),
        sa.PrimaryKeyConstraint("sweep_id", "number", name=op.f("pk_search_arms")),
    )
    op.add_column("runs", sa.Column("cancel", sa.Text(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("restore a copy of the registry instead")
