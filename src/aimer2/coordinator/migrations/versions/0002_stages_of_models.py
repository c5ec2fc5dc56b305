"""stages of models"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_stages",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("study", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=10), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["study"], ["studies.digest"], name=op.f("fk_model_stages_study")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_model_stages")),
    )
    with op.batch_alter_table("model_stages", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_stages_study"), ["study"], unique=False)


def downgrade() -> None:
    op.drop_table("model_stages")
