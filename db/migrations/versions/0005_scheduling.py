"""What steers the scheduler: pauses, back-off, resumption; and a database that refuses to change what is history."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

OVER = "'succeeded', 'failed', 'cancelled'"


def upgrade() -> None:
    op.create_table(
        "controls",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_controls")),
    )
    op.add_column("runs", sa.Column("not_before", sa.Float(), nullable=True))
    op.add_column("runs", sa.Column("cancel_at_once", sa.Boolean(), nullable=True))
    op.add_column("sweeps", sa.Column("paused", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("attempts", sa.Column("asked_to_stop", sa.Float(), nullable=True))
    op.add_column("attempts", sa.Column("stuck_since", sa.Float(), nullable=True))
    op.add_column("attempts", sa.Column("resumed_step", sa.Integer(), nullable=True))
    op.add_column("attempts", sa.Column("halvings", sa.Integer(), server_default="0", nullable=False))
    op.add_column("attempts", sa.Column("placed", sa.String(length=64), nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        _keep_history_sqlite()
    else:
        _keep_history_postgresql()


def _keep_history_sqlite() -> None:
    op.execute(
        f"CREATE TRIGGER runs_over BEFORE UPDATE OF state ON runs WHEN OLD.state IN ({OVER}) "
        "AND NEW.state <> OLD.state BEGIN SELECT RAISE(ABORT, 'a run that is over stays so'); END"
    )
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER transitions_{event.lower()} BEFORE {event} ON transitions "
            "BEGIN SELECT RAISE(ABORT, 'transitions are only added'); END"
        )


def _keep_history_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION aqn_refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0]; END $$ "
        "LANGUAGE plpgsql"
    )
    op.execute(
        "CREATE TRIGGER runs_over BEFORE UPDATE OF state ON runs FOR EACH ROW "
        f"WHEN (OLD.state IN ({OVER}) AND NEW.state <> OLD.state) "
        "EXECUTE FUNCTION aqn_refuse('a run that is over stays so')"
    )
    op.execute(
        "CREATE TRIGGER transitions_kept BEFORE UPDATE OR DELETE ON transitions FOR EACH ROW "
        "EXECUTE FUNCTION aqn_refuse('transitions are only added')"
    )


def downgrade() -> None:
    raise NotImplementedError("restore a copy of the registry instead")
