# What must not be known: two keys of KMS, and four secrets that are made here and given to containers by ECS.
#
# Their values are in Terraform's state, since the cache's password has to be told to the cache: the state is to be
# kept like a secret (README.md, "State").

locals {
  cache_user = "mayfly"

  # name => length
  secret_lengths = { admin = 43, cache = 64, heartbeat = 48, jwt = 64 }
  secrets        = { for name, made in terraform_data.secret : name => sensitive(made.output) }

  # As `mayfly keys generate` makes it: the id says nothing of the secret that could be guessed.
  admin_key = sensitive("mf_${substr(sha256(local.secrets.admin), 0, 16)}.${local.secrets.admin}")
  cache_url = sensitive("rediss://${local.cache_user}:${local.secrets.cache}@${aws_elasticache_replication_group.this.primary_endpoint_address}:${local.ports.cache}/0")

  # Setting => value, each a secret of its own, so that a part gets no other.
  secret_settings = {
    MAYFLY_ADMIN_KEY     = local.admin_key
    MAYFLY_HEARTBEAT_KEY = local.secrets.heartbeat
    MAYFLY_JWT_SECRET    = local.secrets.jwt
    MAYFLY_REDIS         = local.cache_url
  }
}

data "aws_secretsmanager_random_password" "new" {
  for_each = local.secret_lengths

  password_length     = each.value
  exclude_punctuation = true
}

# The source says another one each time it is asked: what counts is the first. `-replace` makes a new one.
resource "terraform_data" "secret" {
  for_each = local.secret_lengths

  input = sensitive(data.aws_secretsmanager_random_password.new[each.key].random_password)

  lifecycle {
    ignore_changes = [input]
  }
}

resource "aws_secretsmanager_secret" "setting" {
  for_each = toset(keys(local.secret_settings))

  name                    = "${var.name}/${each.key}"
  description             = "The setting ${each.key} of ${var.name}"
  kms_key_id              = aws_kms_key.data.arn
  recovery_window_in_days = var.deletion_protection ? 30 : 0

  tags = local.tags
}

resource "aws_secretsmanager_secret_version" "setting" {
  for_each = aws_secretsmanager_secret.setting

  secret_id     = each.value.id
  secret_string = local.secret_settings[each.key]
}

# --- keys

# Encrypts what the parts keep.
resource "aws_kms_key" "data" {
  description             = "What ${var.name} keeps: log, cache, bucket, secrets, images, CloudWatch"
  enable_key_rotation     = true
  deletion_window_in_days = var.deletion_protection ? 30 : 7
  policy                  = data.aws_iam_policy_document.data_key.json

  tags = local.tags
}

resource "aws_kms_alias" "data" {
  name          = "alias/${var.name}-data"
  target_key_id = aws_kms_key.data.key_id
}

# Encrypts the secrets that Mayfly's users set for their functions (MAYFLY_SECRETS_KMS_KEY). Without it nobody reads
# one again.
resource "aws_kms_key" "secrets" {
  description             = "The secrets of functions that ${var.name} keeps"
  enable_key_rotation     = true
  deletion_window_in_days = var.deletion_protection ? 30 : 7
  policy                  = data.aws_iam_policy_document.secrets_key.json

  tags = local.tags
}

resource "aws_kms_alias" "secrets" {
  name          = "alias/${var.name}-secrets"
  target_key_id = aws_kms_key.secrets.key_id
}

locals {
  # All that AWS's default policy allows by kms:*, but by name: the account's own policies say who of it.
  key_administration = [
    "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:CreateGrant", "kms:Decrypt", "kms:DeleteAlias", "kms:DescribeKey",
    "kms:DisableKey", "kms:DisableKeyRotation", "kms:EnableKey", "kms:EnableKeyRotation", "kms:Encrypt",
    "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus",
    "kms:ListGrants", "kms:ListKeyPolicies", "kms:ListKeyRotations", "kms:ListResourceTags", "kms:PutKeyPolicy",
    "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:RetireGrant", "kms:RevokeGrant", "kms:ScheduleKeyDeletion",
    "kms:TagResource", "kms:UntagResource", "kms:UpdateAlias", "kms:UpdateKeyDescription",
  ]
}

data "aws_iam_policy_document" "secrets_key" {
  statement {
    sid       = "Account"
    actions   = local.key_administration
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = ["arn:${local.partition}:iam::${local.account}:root"]
    }
  }
}

data "aws_iam_policy_document" "data_key" {
  source_policy_documents = [data.aws_iam_policy_document.secrets_key.json]

  statement {
    sid       = "Logs"
    actions   = ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:DescribeKey"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["logs.${local.region}.amazonaws.com"]
    }

    condition {
      test     = "ArnLike"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values   = ["arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/${var.name}/*"]
    }
  }

  statement {
    sid       = "Alarms"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = ["*"]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}
