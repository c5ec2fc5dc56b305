"""decisions that count: none of before a site's key was revoked"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("sites", schema=None) as batch_op:
        batch_op.add_column(sa.Column("first_decision", sa.Integer(), nullable=False, server_default="0"))
    # A decision that is older than its site's enrolment, under another key, was made in an earlier one.
    earlier = "decisions.site = sites.site AND decisions.time < sites.enrolled AND decisions.key <> sites.key"
    op.execute(f"UPDATE sites SET first_decision = (SELECT coalesce(max(number), -1) + 1 FROM decisions WHERE {earlier})")
    with op.batch_alter_table("sites", schema=None) as batch_op:
        batch_op.alter_column("first_decision", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("sites", schema=None) as batch_op:
        batch_op.drop_column("first_decision")
